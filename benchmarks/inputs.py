"""Inputs for both sides: an LMDB or a table of random rows with the nets pointed at it, and one batch in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import cosdask.proto as proto
from benchmarks import nets

_PROTOTXT = Path(__file__).resolve().parents[1] / "prototxt"
_LMDB_CLASS = "com.yahoo.ml.caffe.LMDB"


@dataclass(frozen=True)
class Kind:
    """A net to measure: its solver, its images, and how it is built where no prototxt of ours has it.

    Attributes:
        solver: a file of ``prototxt/``.
        channels: of an image.
        size: an image's height and width.
        classes: of the labels, or of the words.
        build: makes the net for a batch size.
        words: of a sentence, for nets that read sentences beside images.
        decay: the solver's weight decay.
        clip: the norm to which the solver clips gradients; none below 0.
    """

    solver: str
    channels: int
    size: int
    classes: int
    build: Callable[[int], Any] | None = None
    words: int = 0
    decay: float = 0.0005
    clip: float = -1.0


KINDS = {
    "lenet": Kind("lenet_memory_solver.prototxt", channels=1, size=28, classes=10),
    "caffenet": Kind("bvlc_reference_solver.prototxt", channels=3, size=227, classes=1000),
    "cifar10": Kind("cifar10_quick_solver.prototxt", channels=3, size=32, classes=10),
    "googlenet": Kind("bvlc_reference_solver.prototxt", channels=3, size=224, classes=1000, build=nets.googlenet),
    "resnet50": Kind("bvlc_reference_solver.prototxt", channels=3, size=224, classes=1000, build=nets.resnet50),
    "lrcn": Kind(
        "bvlc_reference_solver.prototxt",
        channels=3,
        size=227,
        classes=nets.CLASSES,
        build=nets.lrcn,
        words=nets.WORDS,
        decay=0.0,
        clip=10.0,
    ),
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


def one_batch(net: str, batch: int) -> dict[str, np.ndarray]:
    """A batch of random rows as the net's data layer makes it: float32, sentences time-major."""
    kind = KINDS[net]
    rng = np.random.default_rng(1)
    images = rng.random((batch, kind.channels, kind.size, kind.size), np.float32)
    if not kind.words:
        return {"data": images, "label": (np.arange(batch) % kind.classes).astype(np.float32)}
    return {"data": images, **{name: ids.T.astype(np.float32) for name, ids in sentences(kind, batch).items()}}


def sentences(kind: Kind, rows: int) -> dict[str, np.ndarray]:
    """Random sentences of full length, int32 (rows, words): words, the words one later, and 0 where one begins."""
    ids = np.random.default_rng(2).integers(1, kind.classes, (rows, kind.words + 1), dtype=np.int32)
    cont = np.ones((rows, kind.words), np.int32)
    cont[:, 0] = 0
    return {"cont_sentence": cont, "input_sentence": ids[:, :-1], "target_sentence": ids[:, 1:]}


def write_inputs(net: str, folder: Path, batch: int, iterations: int) -> Path:
    """Write rows, a net and a solver that trains on them without tests, snapshots or log lines.

    Args:
        net: a name in ``KINDS``.
        folder: where to write; must exist.
        batch: rows a step.
        iterations: the solver's ``max_iter``.

    Returns:
        The solver's path.
    """
    kind = KINDS[net]
    (write_table if kind.words else write_lmdb)(folder / "rows", kind, rows=8 * batch)
    solver = proto.read_solver(str(_PROTOTXT / kind.solver))
    message = net_message(net, batch)
    for layer in message.layer:
        if layer.type == "MemoryData":
            layer.source_class = _LMDB_CLASS
            layer.memory_data_param.source = str(folder / "rows")
        if layer.type == "CoSData":
            layer.cos_data_param.source = str(folder / "rows")
    (folder / "net.prototxt").write_text(proto.to_text(message))
    solver.net = str(folder / "net.prototxt")
    solver.snapshot_prefix = str(folder / "model")
    solver.max_iter = iterations
    solver.random_seed = 1
    solver.weight_decay, solver.clip_gradients = kind.decay, kind.clip
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


def write_table(path: Path, kind: Kind, rows: int) -> None:
    """Write parquet of JPEG files of 256 x 256 pixels and sentences."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (rows, 24, 24, 3), dtype=np.uint8)
    files = [cv2.imencode(".jpg", cv2.resize(image, (256, 256)))[1].tobytes() for image in coarse]
    words = {name: list(ids) for name, ids in sentences(kind, rows).items()}
    pq.write_table(pa.table({"data": files, **words}), path, row_group_size=max(1, rows // 8))
