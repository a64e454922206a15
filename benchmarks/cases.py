"""The rows of the table: what is compared with what, for how many steps."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: the row's name on the command line.
        title: the row's name in the table.
        net: ``"lenet"`` or ``"caffenet"``.
        ours: module whose process is measured.
        other: module whose process it is compared with.
        batch: rows a step.
        steps: steps timed in each process.
        chunk: steps between two looks at the clock.
        warmup: steps made before the timing starts.
        goal: the least relative rate that we want.
    """

    name: str
    title: str
    net: str
    ours: str
    other: str
    batch: int
    steps: int
    chunk: int
    warmup: int
    goal: float

    def arguments(self) -> list[str]:
        """The command line that both sides get."""
        flags = ("batch", "steps", "chunk", "warmup")
        return [self.net, *(word for flag in flags for word in (f"--{flag}", str(asdict(self)[flag])))]


CASES = (
    Case(
        name="lenet",
        title="LeNet, batch 64, a training step: cosdask / PyTorch",
        net="lenet",
        ours="benchmarks.side_solver",
        other="benchmarks.side_torch",
        batch=64,
        steps=500,
        chunk=20,
        warmup=40,
        goal=1.0,
    ),
    Case(
        name="caffenet",
        title="CaffeNet, batch 16, a training step: cosdask / PyTorch",
        net="caffenet",
        ours="benchmarks.side_solver",
        other="benchmarks.side_torch",
        batch=16,
        steps=16,
        chunk=1,
        warmup=3,
        goal=1.0,
    ),
    Case(
        name="dask",
        title="LeNet, batch 64, one worker: CaffeOnDask / bare Solver loop",
        net="lenet",
        ours="benchmarks.side_dask",
        other="benchmarks.side_solver",
        batch=64,
        steps=1000,
        chunk=20,
        warmup=100,
        goal=0.9,
    ),
)


def side_arguments(description: str) -> argparse.Namespace:
    """The options of a side's process, as :meth:`Case.arguments` writes them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("net", choices=("lenet", "caffenet"))
    for flag in ("batch", "steps", "chunk", "warmup"):
        parser.add_argument(f"--{flag}", type=int, required=True)
    return parser.parse_args()
