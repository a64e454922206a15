"""cosdask's other side: the same training through ``CaffeOnDask`` with local workers."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import distributed

import cosdask
from benchmarks.cases import side_arguments
from benchmarks.inputs import write_inputs
from benchmarks.measure import cores, report


def progress_times(folder: Path) -> Iterator[tuple[int, float]]:
    """Iteration and time in seconds of each progress record that rank 0 left in a run folder."""
    for part in sorted(folder.glob("events-*.jsonl")):
        for line in part.read_text().splitlines():
            record = json.loads(line)
            if record["kind"] == "progress" and record["rank"] == 0:
                yield record["iteration"], record["time"]


def seconds_a_step(times: list[tuple[int, float]], warmup: int) -> list[float]:
    """Seconds a step between one progress record and the next, from the first one after ``warmup`` on.

    Raises:
        ValueError: where fewer than two records come after the warm-up.

    Example:
        >>> seconds_a_step([(0, 0.0), (100, 5.0), (150, 5.5), (250, 6.5)], warmup=100)
        [0.01, 0.01]
    """
    timed = [(iteration, at) for iteration, at in times if iteration >= warmup]
    if len(timed) < 2:
        raise ValueError(f"{len(timed)} progress records after iteration {warmup}; give more steps")
    pairs = itertools.pairwise(timed)
    return [(end - start) / (last - first) for (first, start), (last, end) in pairs]


def main() -> None:
    """Measure and print."""
    options = side_arguments("steps of cosdask.CaffeOnDask")
    with tempfile.TemporaryDirectory() as folder:
        path = write_inputs(options.net, Path(folder), options.batch // options.workers, options.warmup + options.steps)
        model = Path(folder) / "model.caffemodel"
        config = cosdask.Config(conf=str(path), model=str(model), progress="none")
        with (
            cosdask.LocalCluster(options.workers, options.threads or None, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            cosdask.CaffeOnDask(client, config).train()
        times = list(progress_times(model.with_suffix(".run")))
        report(seconds_a_step(times, options.warmup), threads=cores())


if __name__ == "__main__":
    main()
