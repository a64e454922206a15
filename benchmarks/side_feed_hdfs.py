"""cosdask's side of reading, with the rows in HDFS."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.cases import side_arguments
from benchmarks.hadoop import hadoop
from benchmarks.measure import cores, report, time_steps
from benchmarks.pictures import open_rows, write_rows
from benchmarks.side_feed import feeding
from cosdask.storage import atomic_write


def main() -> None:
    """Measure and print."""
    options = side_arguments("batches of cosdask's feed, from HDFS")
    with hadoop("feed") as (_, url), tempfile.TemporaryDirectory() as folder:
        atomic_write(f"{url}/rows", write_rows(options.net, Path(folder)).read_bytes())
        source = open_rows(options.net, f"{url}/rows", options.batch)
        with feeding(source, options.batch) as step:
            report(time_steps(step, options.steps, options.chunk, options.warmup), threads=cores())


if __name__ == "__main__":
    main()
