"""cosdask's side: the bare ``Solver`` loop in one process, reading an LMDB as a user's training would."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cosdask
from benchmarks.cases import side_arguments
from benchmarks.inputs import write_inputs
from benchmarks.measure import cores, report, time_steps


def time_solver(solver: cosdask.Solver, options: argparse.Namespace) -> None:
    """Time a solver's steps and print them."""

    def step(count: int) -> None:
        solver.step(count)
        # The loss of the last iteration is there only when the device has finished it.
        float(solver.loss)

    seconds = time_steps(step, options.steps, options.chunk, options.warmup)
    report(seconds, threads=cores(), loss=float(solver.loss))


def main() -> None:
    """Measure and print."""
    options = side_arguments("steps of cosdask.Solver")
    with tempfile.TemporaryDirectory() as folder:
        path = write_inputs(options.net, Path(folder), options.batch, options.warmup + options.steps)
        with cosdask.Solver(str(path)) as solver:
            time_solver(solver, options)


if __name__ == "__main__":
    main()
