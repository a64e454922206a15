"""The other side of training from an LMDB: the same training with one batch that stays in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import cosdask
from benchmarks.cases import side_arguments
from benchmarks.inputs import write_inputs
from benchmarks.side_solver import time_solver


class SameBatch:
    """A feed that gives one batch again and again."""

    wait_seconds = 0.0
    work_seconds = (0.0, 0.0)

    def __init__(self, batch: dict[str, np.ndarray]) -> None:
        self._batch = batch

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return self._batch

    def close(self) -> None:
        """Nothing to end."""


def main() -> None:
    """Measure and print."""
    options = side_arguments("steps of cosdask.Solver on one batch in memory")
    with tempfile.TemporaryDirectory() as folder:
        path = write_inputs(options.net, Path(folder), options.batch, options.warmup + options.steps)
        with cosdask.Solver(str(path)) as solver:
            (feed,) = solver.engine.feeds
            batch = {name: array.copy() for name, array in next(feed).items()}
            feed.close()
            same: list[Any] = [SameBatch(batch)]
            solver.engine._feeds = same
            time_solver(solver, options)


if __name__ == "__main__":
    main()
