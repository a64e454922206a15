"""The rows of the table: what is compared with what, for how many steps."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: the row's name on the command line.
        title: the row's name in the table.
        net: a name in ``benchmarks.inputs.KINDS``.
        ours: module whose process is measured.
        other: module whose process it is compared with.
        batch: rows a step.
        steps: steps timed in each process.
        chunk: steps between two looks at the clock.
        warmup: steps made before the timing starts.
        goal: the least relative rate that we want.
        forward: whether only forward passes are made.
        workers: workers of the cluster's side, which share cores and batch.
        threads: of each worker; 0: the cores shared out evenly.
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
    forward: bool = False
    workers: int = 1
    threads: int = 0

    def arguments(self) -> list[str]:
        """The command line that both sides get."""
        flags = ("batch", "steps", "chunk", "warmup", "workers", "threads")
        words = [self.net, *(word for flag in flags for word in (f"--{flag}", str(asdict(self)[flag])))]
        return [*words, "--forward"] if self.forward else words


def _step(name: str, title: str, batch: int, steps: int, chunk: int, warmup: int, goal: float) -> Case:
    """A training step against PyTorch's."""
    title = f"{title}, batch {batch}, a training step: cosdask / PyTorch"
    return Case(name, title, name, "benchmarks.side_solver", "benchmarks.side_torch", batch, steps, chunk, warmup, goal)


def _forward(case: Case, title: str) -> Case:
    """The same net's forward pass alone; three of them take about the time of a step."""
    return replace(
        case,
        name=f"{case.name}-forward",
        title=f"{title}, batch {case.batch}, forward: cosdask / PyTorch",
        ours="benchmarks.side_forward",
        steps=2 * case.steps,
        goal=1.0,
        forward=True,
    )


_STEPS = {
    "LeNet": _step("lenet", "LeNet", batch=64, steps=500, chunk=20, warmup=40, goal=1.0),
    "CaffeNet": _step("caffenet", "CaffeNet", batch=16, steps=8, chunk=1, warmup=3, goal=1 / 0.85),
    "GoogLeNet": _step("googlenet", "GoogLeNet", batch=8, steps=8, chunk=1, warmup=3, goal=1 / 0.8),
    "CIFAR-10 quick": _step("cifar10", "CIFAR-10 quick", batch=100, steps=100, chunk=5, warmup=10, goal=1.0),
    "ResNet-50": _step("resnet50", "ResNet-50", batch=4, steps=8, chunk=1, warmup=3, goal=1.0),
    "LRCN": _step("lrcn", "LRCN", batch=16, steps=8, chunk=1, warmup=3, goal=1.0),
}

_JPEG = {
    store: Case(
        name=name,
        title=f"JPEG 256 x 256 in {store} to 227 x 227 crops, 64 rows: feed / bare cv2.imdecode, as many threads",
        net=name,
        ours="benchmarks.side_feed",
        other="benchmarks.side_decode",
        batch=64,
        steps=80,
        chunk=10,
        warmup=16,
        goal=goal,
    )
    for store, name, goal in (
        ("LMDB", "jpeg", 0.9),
        ("parquet", "jpeg_parquet", 0.85),
        ("a SequenceFile", "jpeg_sequence", 0.8),
    )
}

CASES = (
    *_STEPS.values(),
    *(_forward(case, title) for title, case in _STEPS.items()),
    Case(
        name="dask",
        title="LeNet, batch 64, one worker: CaffeOnDask / bare Solver loop",
        net="lenet",
        ours="benchmarks.side_dask",
        other="benchmarks.side_solver",
        batch=64,
        steps=1000,
        chunk=20,
        warmup=800,  # until the spare process is there, which a worker starts when a run has lasted ten seconds
        goal=0.95,
    ),
    replace(
        _STEPS["LeNet"],
        name="memory",
        title="LeNet, batch 64, a training step: from LMDB / from memory",
        other="benchmarks.side_memory",
        goal=0.95,
    ),
    *_JPEG.values(),
    replace(
        _JPEG["parquet"],
        name="jpeg_parquet_hdfs",
        title="JPEG 256 x 256 in parquet to 227 x 227 crops, 64 rows: feed from HDFS / feed from a local file",
        ours="benchmarks.side_feed_hdfs",
        other="benchmarks.side_feed",
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
    for flag in ("batch", "steps", "chunk", "warmup", "workers", "threads"):
        parser.add_argument(f"--{flag}", type=int, required=True)
    parser.add_argument("--forward", action="store_true")
    return parser.parse_args()
