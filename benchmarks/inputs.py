"""Inputs for cosdask's sides: an LMDB of random images and the ready nets pointed at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

import cosdask.proto as proto
from benchmarks import nets

_PROTOTXT = Path(__file__).resolve().parents[1] / "prototxt"
_LMDB_CLASS = "com.yahoo.ml.caffe.LMDB"


@dataclass(frozen=True)
class Kind:
    """A net to measure: its solver, its images, and how it is built where no prototxt of ours has it."""

    solver: str
    channels: int
    size: int
    classes: int
    build: Callable[[int], Any] | None = None


KINDS = {
    "lenet": Kind("lenet_memory_solver.prototxt", channels=1, size=28, classes=10),
    "caffenet": Kind("bvlc_reference_solver.prototxt", channels=3, size=227, classes=1000),
    "cifar10": Kind("cifar10_quick_solver.prototxt", channels=3, size=32, classes=10),
    "googlenet": Kind("bvlc_reference_solver.prototxt", channels=3, size=224, classes=1000, build=nets.googlenet),
    "resnet50": Kind("bvlc_reference_solver.prototxt", channels=3, size=224, classes=1000, build=nets.resnet50),
}


def net_message(net: str, batch: int) -> Any:
    """The TRAIN net of a kind, without augmentation, so that both sides compute the same."""
    kind = KINDS[net]
    if kind.build is not None:
        return kind.build(batch)
    solver = proto.read_solver(str(_PROTOTXT / kind.solver))
    message = proto.read_net(str(_PROTOTXT / solver.net))
    layers = [layer for layer in message.layer if all(rule.phase == 0 for rule in layer.include)]
    del message.layer[:]
    message.layer.extend(layers)
    for layer in message.layer:
        layer.ClearField("include")
        if layer.type == "MemoryData":
            layer.memory_data_param.batch_size = batch
            layer.transform_param.ClearField("mean_file")
    return message


def write_inputs(net: str, folder: Path, batch: int, iterations: int) -> Path:
    """Write an LMDB, a net and a solver that trains on it without tests, snapshots or log lines.

    Args:
        net: a name in ``KINDS``.
        folder: where to write; must exist.
        batch: rows a step.
        iterations: the solver's ``max_iter``.

    Returns:
        The solver's path.
    """
    kind = KINDS[net]
    write_lmdb(folder / "rows", kind, rows=8 * batch)
    solver = proto.read_solver(str(_PROTOTXT / kind.solver))
    message = net_message(net, batch)
    for layer in message.layer:
        if layer.type == "MemoryData":
            layer.source_class = _LMDB_CLASS
            layer.memory_data_param.source = str(folder / "rows")
    (folder / "net.prototxt").write_text(proto.to_text(message))
    solver.net = str(folder / "net.prototxt")
    solver.snapshot_prefix = str(folder / "model")
    solver.max_iter = iterations
    solver.random_seed = 1
    for field in ("test_iter", "test_interval", "snapshot", "solver_mode"):
        solver.ClearField(field)
    solver.snapshot_after_train = False
    path = folder / "solver.prototxt"
    path.write_text(proto.to_text(solver))
    return path


def write_lmdb(path: Path, kind: Kind, rows: int) -> None:
    """Write random raw images with labels that go round the classes, keys in order."""
    rng = np.random.default_rng(0)
    size = rows * (kind.channels * kind.size**2 + 4096)
    with lmdb.open(str(path), map_size=2 * size + (1 << 20)) as database, database.begin(write=True) as writer:
        for row in range(rows):
            pixels = rng.integers(0, 256, (kind.channels, kind.size, kind.size), dtype=np.uint8)
            datum = proto.caffe_pb2.Datum(
                channels=kind.channels,
                height=kind.size,
                width=kind.size,
                data=pixels.tobytes(),
                label=row % kind.classes,
            )
            writer.put(f"{row:08d}".encode(), datum.SerializeToString())
