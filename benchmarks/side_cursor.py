"""The other side of reading raw Datums: an LMDB cursor that copies each value into one array of a batch's size."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import lmdb
import numpy as np

from benchmarks.cases import side_arguments
from benchmarks.measure import report, time_steps
from benchmarks.pictures import SIDE, write_rows


def main() -> None:
    """Measure and print."""
    options = side_arguments("a bare LMDB cursor")
    out = np.empty((options.batch, 3 * SIDE**2 + 64), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows("raw", Path(folder))
        with lmdb.open(str(path), readonly=True, lock=False) as database, database.begin(buffers=True) as reader:
            epochs = (reader.cursor().iternext(keys=False) for _ in itertools.count())
            values = itertools.chain.from_iterable(epochs)

            def step(count: int) -> None:
                for _ in range(count):
                    for row, value in enumerate(itertools.islice(values, options.batch)):
                        out[row, : len(value)] = np.frombuffer(value, np.uint8)

            report(time_steps(step, options.steps, options.chunk, options.warmup), threads=1)


if __name__ == "__main__":
    main()
