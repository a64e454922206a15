"""Opening the net that a verb works with, from whichever prototxt the user has."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from cosdask.errors import DataError, NetError, StorageError, did_you_mean
from cosdask.nn import Net
from cosdask.proto import caffe_pb2, read_prototxt, read_solver
from cosdask.solver.nets import NetSource, test_nets, train_net

#: A field that only solvers have, at the start of a line; nets have none of these names at any depth.
_SOLVER_FIELD = re.compile(r"^\s*(net|train_net|test_net|base_lr|lr_policy|max_iter)\s*:", re.MULTILINE)


def open_net(path: str, weights: str | None = None) -> Net:
    """The net for predictions: a solver's first test net, or a net file (deploy, or TRAIN and TEST in one).

    Raises:
        StorageError, ProtoError, NetError, WeightsError: naming file and place.
    """
    if is_solver(path):
        return test_net(path, weights)
    return Net(path, phase="TEST", weights=weights)


def is_solver(path: str) -> bool:
    """Whether a prototxt is a solver's."""
    return bool(_SOLVER_FIELD.search(read_prototxt(path)))


def solver_net(solver: str, phase: str) -> NetSource:
    """The net that a solver trains, or the first that it tests; filtered for ``phase``."""
    return train_net(read_solver(solver), solver) if phase == "TRAIN" else _test_source(solver)


def test_net(solver: str, weights: str | None = None) -> Net:
    """The first test net of a solver; its training net in phase TEST where it tests none."""
    return _test_source(solver).open(weights)


def test_blobs(solver: str) -> list[str]:
    """Names of the blobs of :func:`test_net`, found without looking at its data."""
    return list(dict.fromkeys(top for layer in _test_source(solver).layers() for top in layer.top))


def check_nets(solver: str, train: bool, test: bool, weights: Sequence[str] = ()) -> None:
    """Builds the nets that a job needs, here, where the user's own files can be named by line.

    Data that cannot be read here may be there for the workers, so they are left to them.

    Args:
        solver: path of the solver.
        train: whether the training net is needed.
        test: whether the test nets are.
        weights: local files to load into the first net needed.

    Raises:
        ProtoError, NetError, SolverError: a net that cannot work, or has no data in its phase.
        WeightsError: weights that do not fit.
    """
    param = read_solver(solver)
    sources = [train_net(param, solver)] if train else []
    sources += (test_nets(param, solver) or ([] if train else [_test_source(solver)])) if test else []
    for number, source in enumerate(sources):
        _check_data_layer(source, solver)
        try:
            net = source.open()
        except (DataError, StorageError):
            continue
        for path in weights if number == 0 else ():
            net.load(path)


def _check_data_layer(source: NetSource, solver: str) -> None:
    if any(not layer.bottom for layer in source.layers()):
        return
    where = source.where if isinstance(source.where, str) else solver
    message = (
        f"{where}: no data in phase {source.phase}: every layer there reads another one. Add a data layer, with "
        f"include {{ phase: {source.phase} }} or without include for both phases"
    )
    raise NetError(message, path=where, phase=source.phase)


def _test_source(solver: str) -> NetSource:
    param = read_solver(solver)
    tested = test_nets(param, solver)
    return tested[0] if tested else dataclasses.replace(train_net(param, solver), phase="TEST", level=0, stages=())


def image_input(net: Net) -> str:
    """The input that takes images: the first with a shape (N, C, H, W) of more than one value.

    Raises:
        NetError: there is none.
    """
    for name, shape in net.inputs.items():
        if len(shape) == 4 and shape[1] * shape[2] * shape[3] > 1:
            return name
    raise NetError(f"the net takes no images; its inputs are {dict(net.inputs)}")


def input_layer(net: Net, blob: str) -> caffe_pb2.LayerParameter | None:
    """The layer that makes an input; None for inputs that the net states by themselves."""
    return next((layer for layer in net.layers if blob in layer.top), None)


def score_blob(net: Net, name: str | None = None) -> tuple[str, bool]:
    """The blob that holds a score a class, and whether a softmax makes its scores probabilities.

    Args:
        net: a net with or without loss.
        name: the user's choice; without it, the output of a Softmax, else what a softmax loss reads, else the only
            output.

    Raises:
        NetError: no such blob, or several to choose from.
    """
    read_by_loss = [layer.bottom[0] for layer in net.layers if layer.type == "SoftmaxWithLoss"]
    if name:
        if name not in net.blob_shapes:
            raise NetError(f'the net makes no blob "{name}".{did_you_mean(name, net.blob_shapes)}', blob=name)
        return name, name in read_by_loss
    softmax = [layer.top[0] for layer in net.layers if layer.type == "Softmax" and layer.top[0] in net.outputs]
    if softmax:
        return softmax[-1], False
    if read_by_loss:
        return read_by_loss[-1], True
    if len(net.outputs) == 1:
        return net.outputs[0], False
    raise NetError(f"which blob holds the classes? Choose one with --blob, such as {', '.join(net.outputs)}")
