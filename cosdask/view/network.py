"""A net's picture inside of a notebook."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosdask.errors import ConfigError, DataError, ProtoError, StorageError
from cosdask.nn import Net
from cosdask.proto import caffe_pb2, filter_net, read_net, read_solver
from cosdask.solver.nets import train_net
from cosdask.view.draw import draw_net

__all__ = ["Picture", "show_network"]

_SIDEWAYS = {"TB": False, "LR": True}


class Picture:
    """A PNG that a notebook draws where it is the last value of a cell.

    Attributes:
        data: the bytes of the PNG file.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data

    def _repr_png_(self) -> bytes:
        return self.data

    def __repr__(self) -> str:
        return f"<Picture of {len(self.data)} bytes; a notebook draws it>"


def show_network(
    prototxt: str | os.PathLike[str] | caffe_pb2.NetParameter | Net,
    rankdir: str = "TB",
    phase: str = "TRAIN",
    stages: Sequence[str] = (),
) -> Picture:
    """The picture of a net: boxes for layers, arrows for blobs with their shapes.

    Args:
        prototxt: path of a net or of a solver (its training net, with its stages), a message, or a ``Net``.
        rankdir: ``"TB"`` from top to bottom, ``"LR"`` from left to right.
        phase: ``"TRAIN"`` or ``"TEST"``; a ``Net`` and a solver have theirs.
        stages: stages that choose layers.

    Raises:
        ConfigError: another ``rankdir``.
        ProtoError, StorageError, NetError: a net that cannot be read or built.
    """
    if rankdir not in _SIDEWAYS:
        raise ConfigError(f'rankdir="{rankdir}": "TB" (downwards) and "LR" (sideways) are possible', option="rankdir")
    layers, shapes, title = _parts(prototxt, phase, stages)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.png"
        draw_net(layers, path, shapes, title=title, sideways=_SIDEWAYS[rankdir])
        return Picture(path.read_bytes())


def _parts(what: Any, phase: str, stages: Sequence[str]) -> tuple[list[Any], Mapping[str, Any], str]:
    """Layers, shapes of blobs (none where they are in data that cannot be read), and the net's name."""
    if isinstance(what, Net):
        return what.layers, what.blob_shapes, what.name
    folder = None if isinstance(what, caffe_pb2.NetParameter) else os.path.dirname(os.fspath(what))
    try:
        message = what if isinstance(what, caffe_pb2.NetParameter) else read_net(what)
    except ProtoError as problem:
        try:
            source = train_net(read_solver(what), os.fspath(what))
        except ProtoError:
            raise problem from None
        try:
            net = source.open()
            return net.layers, net.blob_shapes, net.name
        except (DataError, StorageError):
            return list(source.layers()), {}, ""
    try:
        net = Net(message, phase=phase, stages=tuple(stages), folder=folder or None)
        return net.layers, net.blob_shapes, net.name
    except (DataError, StorageError):  # a picture needs no data
        return list(filter_net(message, phase, 0, stages).layer), {}, message.name
