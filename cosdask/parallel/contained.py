"""Prototxts made self-contained on the client, so that they mean the same on every machine.

Without the package of nets and without JAX: `cosdask submit` sends a solver along and computes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from cosdask.proto import caffe_pb2, initial_weights, read_net
from cosdask.storage import absolute, join, local_path, parent, resolve

Param = caffe_pb2.SolverParameter

#: the fields of a layer that name files
_PATH_FIELDS = (
    ("data_param", "source"),
    ("data_param", "mean_file"),
    ("memory_data_param", "source"),
    ("cos_data_param", "source"),
    ("hdf5_data_param", "source"),
    ("image_data_param", "source"),
    ("image_data_param", "root_folder"),
    ("image_data_param", "mean_file"),
    ("window_data_param", "source"),
    ("window_data_param", "root_folder"),
    ("window_data_param", "mean_file"),
    ("transform_param", "mean_file"),
)


def self_contained(param: Param, path: str | None, model: str) -> Param:
    """A copy of the solver's message that means the same in any process and any working directory.

    Nets are put in place of their paths, paths of data and of initial weights are absolute, and the snapshots' prefix
    lies beside the model.

    Args:
        param: as read from ``path``.
        path: the solver file, or None.
        model: where the final model goes, or "" where nothing is trained.
    """
    copy = Param()
    copy.CopyFrom(param)
    folder = parent(path) if path else None
    if copy.HasField("net"):
        copy.net_param.CopyFrom(_whole_net(copy.net, folder))
        copy.ClearField("net")
    if copy.HasField("train_net"):
        copy.train_net_param.CopyFrom(_whole_net(copy.train_net, folder))
        copy.ClearField("train_net")
    inline = [(copy, name) for name in ("net_param", "train_net_param") if param.HasField(name)]
    for owner, name in inline:
        absolute_paths(getattr(owner, name), folder)
    for net in copy.test_net_param:
        absolute_paths(net, folder)
    for name in copy.test_net:
        copy.test_net_param.append(_whole_net(name, folder))
    copy.ClearField("test_net")
    del copy.weights[:]
    copy.weights.extend(absolute(file) for file in initial_weights(param, path))
    if model:
        copy.snapshot_prefix = prefix_beside(model, param, path)
    return copy


def _whole_net(where: str, folder: str | None) -> caffe_pb2.NetParameter:
    found = resolve(where, folder)
    return absolute_paths(read_net(found), parent(found))


def prefix_beside(model: str, param: Param, path: str | None) -> str:
    """Where snapshots go: the solver's prefix, counted from the model's folder unless it is absolute."""
    if param.snapshot_prefix and (os.path.isabs(param.snapshot_prefix) or local_path(param.snapshot_prefix) is None):
        return param.snapshot_prefix
    # with it comes all that trains, for which only a training has use
    from cosdask.solver.nets import snapshot_prefix

    prefix = param.snapshot_prefix or os.path.basename(snapshot_prefix(param, path))
    return join(parent(absolute(model)), prefix)


def absolute_paths(net: caffe_pb2.NetParameter, folder: str | None) -> caffe_pb2.NetParameter:
    """Make the paths that a net's layers name absolute, in place, where they lead to something here."""
    for layer, group, name in _paths(net):
        message = getattr(layer, group)
        found = resolve(getattr(message, name), folder)
        here = local_path(found)
        if here is not None and here.exists():
            setattr(message, name, os.path.abspath(here))
    for layer in net.layer:
        if layer.hdf5_output_param.file_name:
            # a file that is yet to be written counts from the user's working directory, as in Caffe
            layer.hdf5_output_param.file_name = absolute(layer.hdf5_output_param.file_name)
    return net


def _paths(net: caffe_pb2.NetParameter) -> Iterator[tuple[caffe_pb2.LayerParameter, str, str]]:
    for layer in net.layer:
        for group, name in _PATH_FIELDS:
            if layer.HasField(group) and getattr(getattr(layer, group), name):
                yield layer, group, name
