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
        net: ``"lenet"`` or ``"caffenet"``; in rows about reading alone, the kind of rows (:mod:`benchmarks.pictures`).
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
    Case(
        name="memory",
        title="LeNet, batch 64, a training step: from LMDB / from memory",
        net="lenet",
        ours="benchmarks.side_solver",
        other="benchmarks.side_memory",
        batch=64,
        steps=500,
        chunk=20,
        warmup=40,
        goal=0.95,
    ),
    Case(
        name="jpeg",
        title="JPEG 256 x 256 in LMDB to 227 x 227 crops, 64 rows: feed / bare cv2.imdecode, as many threads",
        net="jpeg",
        ours="benchmarks.side_feed",
        other="benchmarks.side_decode",
        batch=64,
        steps=80,
        chunk=10,
        warmup=16,
        goal=0.9,
    ),
    Case(
        name="jpeg_parquet",
        title="JPEG 256 x 256 in parquet to 227 x 227 crops, 64 rows: feed / bare cv2.imdecode, as many threads",
        net="jpeg_parquet",
        ours="benchmarks.side_feed",
        other="benchmarks.side_decode",
        batch=64,
        steps=80,
        chunk=10,
        warmup=16,
        goal=0.85,
    ),
    Case(
        name="raw",
        title="Raw Datums of 3 x 256 x 256 in LMDB to 227 x 227 crops, 64 rows: feed / bare cursor that copies them",
        net="raw",
        ours="benchmarks.side_feed",
        other="benchmarks.side_cursor",
        batch=64,
        steps=800,
        chunk=40,
        warmup=80,
        goal=0.6,
    ),
)


def side_arguments(description: str) -> argparse.Namespace:
    """The options of a side's process, as :meth:`Case.arguments` writes them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("net", choices=sorted({case.net for case in CASES}))
    for flag in ("batch", "steps", "chunk", "warmup"):
        parser.add_argument(f"--{flag}", type=int, required=True)
    return parser.parse_args()
