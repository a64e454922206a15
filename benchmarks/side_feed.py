"""cosdask's side of reading: batches that are ready for the device, decoded, cropped, in order."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.cases import side_arguments
from benchmarks.measure import cores, report, time_steps
from benchmarks.pictures import open_rows, write_rows
from cosdask.data import Feed, RowPlan, Source


@contextlib.contextmanager
def feeding(source: Source, batch: int) -> Iterator[Callable[[int], None]]:
    """A function that takes so many batches of the feed."""
    with Feed(source, RowPlan(source.rows, 1), 0, batch) as feed:

        def step(count: int) -> None:
            for _ in range(count):
                next(feed)

        yield step


def main() -> None:
    """Measure and print."""
    options = side_arguments("batches of cosdask's feed")
    with tempfile.TemporaryDirectory() as folder:
        source = open_rows(options.net, write_rows(options.net, Path(folder)), options.batch)
        with feeding(source, options.batch) as step:
            report(time_steps(step, options.steps, options.chunk, options.warmup), threads=cores())


if __name__ == "__main__":
    main()
