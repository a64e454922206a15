"""The ways in which pycaffe's users call ``Net``: phases, files, and what goes where."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from cosdask.errors import NetError, WeightsError
from cosdask.proto import caffe_pb2

TRAIN: int = caffe_pb2.TRAIN
TEST: int = caffe_pb2.TEST


def arguments(
    args: Sequence[Any], phase: Any, level: int, stages: Sequence[str] | None, weights: str | None
) -> tuple[Any, int, Sequence[str] | None, str | None]:
    """Sort out pycaffe's two ways to call the constructor."""
    rest = list(args)
    if rest and isinstance(rest[0], str | os.PathLike) and str(rest[0]) not in ("TRAIN", "TEST"):
        weights = os.fspath(rest.pop(0))
    names = ("phase", "level", "stages", "weights")
    if len(rest) > len(names):
        raise NetError(f"Net takes a file, a phase, level, stages and weights; {len(args) + 1} arguments are given.")
    given = dict(zip(names, rest, strict=False))
    phase = given.get("phase", phase)
    if phase is None:
        raise NetError("Net needs a phase: Net(file, caffe.TEST) or Net(file, weights, caffe.TEST).")
    return phase, given.get("level", level), given.get("stages", stages), given.get("weights", weights)


def where(network_file: Any) -> str | caffe_pb2.NetParameter:
    """A net as it was named: its path, or its message."""
    return network_file if isinstance(network_file, caffe_pb2.NetParameter) else os.fspath(network_file)


def phase_name(phase: Any) -> str:
    """``"TRAIN"`` or ``"TEST"``, from pycaffe's number or the word.

    Raises:
        NetError: for anything else.
    """
    names = {TRAIN: "TRAIN", TEST: "TEST", "TRAIN": "TRAIN", "TEST": "TEST"}
    if phase not in names:
        raise NetError(f"phase {phase!r}: caffe.TRAIN (0) and caffe.TEST (1) are possible.")
    return names[phase]


def hdf5_name(path: str | os.PathLike[str]) -> str:
    """A path that must end in ``.h5``.

    Raises:
        WeightsError: where it does not.
    """
    name = os.fspath(path)
    if not name.endswith(".h5"):
        raise WeightsError(f"{name}: name an HDF5 file of weights with .h5 at its end.", path=name)
    return name


__all__ = ["TEST", "TRAIN", "arguments", "hdf5_name", "phase_name", "where"]
