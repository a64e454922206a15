"""Opening a net as Caffe lists it: Split layers put in, losses without a top given one, errors with file and line."""

from __future__ import annotations

import importlib
import sys

from cosdask.errors import NetError
from cosdask.nn import Net as PureNet
from cosdask.nn.graph import with_automatic_top
from cosdask.nn.places import layer_places
from cosdask.nn.user_code import allow_python_layers, provide_caffe
from cosdask.proto import caffe_pb2, filter_net, insert_splits, parse_net, read_prototxt, upgrade_net
from cosdask.solver.nets import NetSource
from cosdask.storage import parent

#: how the top begins that a loss layer gets where the prototxt gives it none
AUTOMATIC = "(automatic)"


def open_net(source: NetSource, seed: int) -> PureNet:
    """Build a net once.

    A blob that is read twice gets a Split layer, as in Caffe: each reader has a gradient of its own.

    Args:
        source: the net and its state.
        seed: of the fillers.

    Raises:
        ProtoError, NetError, DataError: naming file and place.
    """
    text, folder = None, source.folder
    if isinstance(source.where, caffe_pb2.NetParameter):
        whole = upgrade_net(source.where)
    else:
        text = read_prototxt(source.where)
        whole = parse_net(text, source.where)
        folder = folder if folder is not None else parent(source.where)
    message = filter_net(whole, source.phase, source.state_level, source.stages)
    _name_tops(message)
    _provide_layers(message)
    try:
        return PureNet(
            insert_splits(message), source.phase, source.state_level, source.stages, seed=seed, folder=folder
        )
    except NetError as error:
        places = {} if text is None else layer_places(text, whole, message.state)
        line = places.get(error.where.get("layer", ""))
        if line is not None and "line" not in error.where:
            error.args = (f"{source.where}:{line}: {error.message}",)
            error.where.update(path=source.where, line=line)
        raise


def _name_tops(message: caffe_pb2.NetParameter) -> None:
    """Give losses without a top a blob of their own, from which backward starts."""
    for layer in message.layer:
        if not layer.top and with_automatic_top(layer).top:
            layer.top.append(f"{AUTOMATIC} {layer.name}")


def _provide_layers(message: caffe_pb2.NetParameter) -> None:
    """Let Python layers be found in modules that are loaded: their code has run, naming it runs nothing new.

    Other modules are imported only where ``allow_python_layers`` named them.
    """
    modules = {layer.python_param.module for layer in message.layer if layer.type == "Python"}
    if modules:
        allow_python_layers([name for name in modules if name in sys.modules])
        if "caffe" not in sys.modules:
            provide_caffe(importlib.import_module("cosdask.pycaffe"))


__all__ = ["AUTOMATIC", "open_net"]
