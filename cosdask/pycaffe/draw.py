"""``caffe.draw``: a net as a picture, without a system program (see :func:`cosdask.view.draw_net`)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cosdask.errors import ConfigError
from cosdask.proto import caffe_pb2, filter_net, upgrade_net
from cosdask.view.draw import draw_net as _draw

_PHASES: dict[int | None, str | None] = {None: None, caffe_pb2.TRAIN: "TRAIN", caffe_pb2.TEST: "TEST"}


def draw_net_to_file(
    caffe_net: caffe_pb2.NetParameter,
    filename: str | os.PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Write a picture of a net.

    Args:
        caffe_net: the net's message.
        filename: its ending says the format: ``.png``, ``.svg`` or ``.pdf``.
        rankdir: ``"LR"``, ``"RL"`` from the side, ``"TB"``, ``"BT"`` downwards.
        phase: ``caffe.TRAIN`` or ``caffe.TEST`` for the layers of one phase; None for all.
        display_lrm: has no effect: learning-rate multipliers are not drawn.

    Raises:
        ConfigError: for another ``rankdir``, ``phase`` or format.
        StorageError: where the file cannot be written.
    """
    if rankdir not in ("LR", "RL", "TB", "BT"):
        raise ConfigError(f'rankdir "{rankdir}": LR, RL, TB and BT are possible.')
    if phase not in _PHASES:
        raise ConfigError(f"phase {phase!r}: caffe.TRAIN, caffe.TEST and None are possible.")
    net, name = upgrade_net(caffe_net), _PHASES[phase]
    layers = net.layer if name is None else filter_net(net, name).layer
    _draw(list(layers), os.fspath(filename), title=net.name, sideways=rankdir in ("LR", "RL"))


def draw_net(
    caffe_net: caffe_pb2.NetParameter,
    rankdir: str = "LR",
    ext: str = "png",
    phase: int | None = None,
    display_lrm: bool = False,
) -> bytes:
    """The picture's bytes, in the format ``ext``; arguments as of :func:`draw_net_to_file`."""
    with tempfile.TemporaryDirectory(prefix="cosdask-draw-") as folder:
        path = Path(folder) / f"net.{ext}"
        draw_net_to_file(caffe_net, path, rankdir, phase, display_lrm)
        return path.read_bytes()


__all__ = ["draw_net", "draw_net_to_file"]
