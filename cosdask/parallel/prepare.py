"""Getting a training ready: prototxts made self-contained on the client, data found and counted on the workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from cosdask.data import Source, get_source
from cosdask.parallel.counting import counted
from cosdask.parallel.locality import places_of
from cosdask.parallel.plugins import load_plugins
from cosdask.proto import caffe_pb2, parse_solver, read_net
from cosdask.solver.nets import snapshot_prefix, test_nets, train_net
from cosdask.storage import join, local_path, parent, resolve

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

    Nets are put in place of their paths, paths of data are absolute, and the snapshots' prefix lies beside the model.

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
    prefix = param.snapshot_prefix or os.path.basename(snapshot_prefix(param, path))
    return join(parent(absolute(model)), prefix)


def absolute(path: str) -> str:
    """A local path made absolute; URLs stay."""
    here = local_path(path)
    return path if here is None or not path else os.path.abspath(here)


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


def inspect_training(
    solver: str,
    source: dict[str, Any] | None,
    validate: bool,
    weights: str,
    options: dict[str, Any],
    plugins: str,
) -> dict[str, Any]:
    """On a worker: build the nets, load the weights, find and count the rows.

    What is wrong with any of them is raised here, before ranks start and before anything is written.

    Returns:
        ``source`` and ``tests``: specifications; ``rows`` and ``batch``: of the TRAIN source; ``places``: where its
        rows lie.
    """
    load_plugins(plugins)
    param = parse_solver(solver)
    given = None if source is None else Source.from_spec(source)
    net = train_net(param, None).open(seed=0, tops=given.tops if given is not None else None)
    for path in weights.split(","):
        if path:
            net.load(path)
    train = counted(given if given is not None else get_source(net, phase="TRAIN", options=options))
    tests = []
    if validate and param.test_iter:
        nets = [named.open(seed=0) for named in test_nets(param, None)]
        tests = [counted(get_source(test, phase="TEST", options=options)).spec() for test in nets]
    found = {"source": train.spec(), "tests": tests, "rows": train.rows, "batch": train.batch_size}
    return {**found, "places": places_of(train)}
