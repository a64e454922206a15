"""From what a user calls his net to the two nets that an estimator needs: one that trains, one that answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cosdask.data import is_data_layer
from cosdask.errors import ConfigError, NetError, did_you_mean
from cosdask.nn.graph import INPUT_TYPES
from cosdask.nn.layer import REGISTRY, Shape
from cosdask.proto import caffe_pb2, filter_net, parse_net, parse_solver, read_net, read_solver, upgrade_net
from cosdask.proto.net_spec import NetSpec
from cosdask.storage import parent, resolve

#: what a user may call a net
NetLike = Any
#: layers that carry images and a label, with a transform of their own
IMAGE_LAYERS = ("Data", "MemoryData", "ImageData")


def linear(shape: Shape, classes: int) -> caffe_pb2.NetParameter:
    """The net that is used where none is given: a score for each class, linear in the features."""
    return parse_net(
        'name: "linear" layer { name: "score" type: "InnerProduct" bottom: "data" top: "score" '
        f"inner_product_param {{ num_output: {classes} weight_filler {{ type: 'xavier' }} }} }}"
    )


def find_net(net: NetLike, shape: Shape, classes: int) -> tuple[caffe_pb2.NetParameter, str | None]:
    """The net's message, upgraded, and the folder that its relative paths count from.

    Args:
        net: None (a linear net), a path or URL, prototxt text, a ``NetParameter``, a ``NetSpec``, or a function of
            (shape of a row, number of classes) that gives one of these.
        shape: of a row.
        classes: how many there are.

    Raises:
        ConfigError: for anything else.
        ProtoError, StorageError: for a net that cannot be read.
    """
    if net is None:
        return linear(shape, classes), None
    if isinstance(net, NetSpec):
        return upgrade_net(net.to_proto()), None
    if isinstance(net, caffe_pb2.NetParameter):
        return upgrade_net(net), None
    if isinstance(net, str | os.PathLike):
        text = os.fspath(net)
        return (parse_net(text), None) if "{" in text else (read_net(text), parent(text))
    if isinstance(net, Callable):  # type: ignore[arg-type]
        return find_net(net(shape, classes), shape, classes)
    raise ConfigError(f"net is a path, prototxt text, a message, a NetSpec or a function, not {type(net).__name__}.")


def find_solver(solver: Any) -> tuple[caffe_pb2.SolverParameter | None, str | None]:
    """The solver's message and folder where ``solver`` is a file, text or message; None where it names a rule."""
    if isinstance(solver, caffe_pb2.SolverParameter):
        found = caffe_pb2.SolverParameter()
        found.CopyFrom(solver)
        return found, None
    text = os.fspath(solver)
    if ":" in text and ("\n" in text or " " in text):
        return parse_solver(text), None
    return (read_solver(text), parent(text)) if text.endswith(".prototxt") else (None, None)


def solver_net(solver: caffe_pb2.SolverParameter, folder: str | None) -> NetLike:
    """The net that a solver's message names."""
    for name in ("net_param", "train_net_param"):
        if solver.HasField(name):
            return getattr(solver, name)
    for name in ("net", "train_net"):
        if solver.HasField(name):
            return resolve(getattr(solver, name), folder)
    raise ConfigError("the solver names no net; give one with net=.")


@dataclass(frozen=True)
class Roles:
    """Which blob is which.

    Attributes:
        data: what is fed.
        label: what the loss compares with.
        scores: a number for each class, before the softmax.
        reader: the net's own data layer where it reads images, whose transform applies; else None.
        row: shape of a row as the net states it; None where it does not.
    """

    data: str
    label: str
    scores: str
    reader: caffe_pb2.LayerParameter | None
    row: Shape | None


def find_roles(message: caffe_pb2.NetParameter, scores: str | None = None) -> Roles:
    """Find the blobs in a net of one phase, with or without data layers and a loss.

    Raises:
        NetError: where it cannot be told which they are.
    """
    fed = [layer for layer in message.layer if layer.type in INPUT_TYPES]
    body = [layer for layer in message.layer if layer.type not in INPUT_TYPES]
    if not body:
        raise NetError("the net has no layers beside its inputs.")
    reader = next((layer for layer in fed if is_data_layer(layer) and layer.type in IMAGE_LAYERS), None)
    tops = [top for layer in fed for top in layer.top]
    made = {top for layer in body for top in layer.top}
    wanted = list(dict.fromkeys(b for layer in body for b in layer.bottom if b not in made))
    data = tops[0] if tops else wanted[0]
    losses = [layer for layer in body if _is_loss(layer)]
    label = losses[0].bottom[1] if losses and len(losses[0].bottom) > 1 else tops[1] if len(tops) > 1 else "label"
    if scores is None:
        scores = losses[0].bottom[0] if losses else _last_scores(body)
    elif scores not in made:
        raise NetError(f'the net makes no blob "{scores}".{did_you_mean(scores, made)}')
    row = next((_stated_row(layer) for layer in fed if data in layer.top), None)
    return Roles(data, label, scores, reader, row)


def _is_loss(layer: caffe_pb2.LayerParameter) -> bool:
    cls = REGISTRY.get(layer.type)
    return cls is not None and cls.is_loss


def _last_scores(body: Sequence[caffe_pb2.LayerParameter]) -> str:
    last = next(layer for layer in reversed(body) if layer.type not in ("Accuracy", "Silence", "ArgMax"))
    return str(last.bottom[0] if last.type == "Softmax" else last.top[0])


def _stated_row(layer: caffe_pb2.LayerParameter) -> Shape | None:
    if layer.type == "Input" and layer.input_param.shape:
        return tuple(int(size) for size in layer.input_param.shape[0].dim[1:])
    if layer.type == "MemoryData":
        param = layer.memory_data_param
        return int(param.channels), int(param.height), int(param.width)
    return None


def training_net(message: caffe_pb2.NetParameter, roles: Roles, row: Shape, batch: int) -> caffe_pb2.NetParameter:
    """The TRAIN net: a data layer for the rows at hand, the net's layers, and a loss where it has none.

    Args:
        message: the whole net.
        roles: of its blobs.
        row: shape of a row.
        batch: rows of a batch.
    """
    whole = filter_net(message, "TRAIN")
    net = caffe_pb2.NetParameter(name=whole.name)
    net.layer.append(data_layer(roles, row, batch))
    net.layer.extend(layer for layer in whole.layer if layer.type not in INPUT_TYPES)
    if not any(_is_loss(layer) for layer in net.layer):
        net.layer.add(name="loss", type="SoftmaxWithLoss", bottom=[roles.scores, roles.label], top=["loss"])
    return net


def answering_net(message: caffe_pb2.NetParameter, roles: Roles, row: Shape, batch: int) -> caffe_pb2.NetParameter:
    """The TEST net: fed by hand, or through the transform of its own data layer."""
    whole = filter_net(message, "TEST")
    net = caffe_pb2.NetParameter(name=whole.name)
    if roles.reader is not None:
        net.layer.append(data_layer(roles, row, batch))
    else:
        for blob, shape in ((roles.data, (batch, *row)), (roles.label, (batch,))):
            layer = net.layer.add(name=blob, type="Input", top=[blob])
            layer.input_param.shape.add(dim=shape)
    net.layer.extend(layer for layer in whole.layer if layer.type not in INPUT_TYPES)
    return net


def data_layer(roles: Roles, row: Shape, batch: int) -> caffe_pb2.LayerParameter:
    """A layer for columns ``data`` and ``label``: images as the net's own layer reads them, or plain numbers."""
    layer = caffe_pb2.LayerParameter(name="rows", top=[roles.data, roles.label])
    if roles.reader is not None:
        layer.type, layer.source_class = "MemoryData", "ImageDataFrame"
        layer.transform_param.CopyFrom(roles.reader.transform_param)
        param = layer.memory_data_param
        param.batch_size, param.source = batch, "rows"
        param.channels, param.height, param.width = row
        return layer
    layer.type, layer.source_class = "CoSData", "DataFrameSource"
    columns = layer.cos_data_param
    columns.source, columns.batch_size = "rows", batch
    sizes = dict(zip(("channels", "height", "width"), (*row, 1, 1, 1), strict=False))
    columns.top.add(name="data", type="FLOAT_ARRAY", sample_num_axes=len(row), **sizes)
    columns.top.add(name="label", type="INT", channels=1, height=1, width=1, sample_num_axes=0)
    return layer


__all__ = [
    "IMAGE_LAYERS",
    "Roles",
    "answering_net",
    "data_layer",
    "find_net",
    "find_roles",
    "find_solver",
    "linear",
    "solver_net",
    "training_net",
]
