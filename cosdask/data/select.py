"""From whatever names a net to its source: ``get_source``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosdask.data.base import Source
from cosdask.data.registry import DATA_LAYERS, is_data_layer, open_source
from cosdask.data.rowless import SELF_FED, RowlessSource
from cosdask.data.zipped import ZippedSource
from cosdask.errors import ConfigError, DataError, ProtoError
from cosdask.proto import caffe_pb2, filter_net, read_net, read_solver
from cosdask.storage import parent, resolve

_PHASES = ("TRAIN", "TEST")
#: Options of a run that sources know, by their names there and here.
_CONFIG_OPTIONS = {
    "resize": "resize",
    "lmdb_partitions": "partitions",
    "seed": "seed",
    "shuffle": "shuffle",
    "on_bad_rows": "on_bad_rows",
    "persistent": "persistent",
}


def get_source(
    what: Any,
    phase: str = "TRAIN",
    stages: Sequence[str] = (),
    level: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Source:
    """The rows that a net reads in one phase.

    Args:
        what: the prototxt of a net or a solver (path or URL), a NetParameter or SolverParameter, a ``cosdask.Net`` or
            ``cosdask.Solver``, or a ``cosdask.Config``.
        phase: ``"TRAIN"`` or ``"TEST"``.
        stages: stages of the net, beside those of the solver's state.
        level: level of the net.
        options: see :class:`Source`.

    Returns:
        The data layer's source; several data layers are zipped (see :class:`ZippedSource`), and a net that only has
        layers that make data (DummyData, Python) gets a :class:`RowlessSource`.

    Raises:
        DataError: no data layer in this phase, or data that cannot be read.
        ConfigError: settings that cannot work.
        ProtoError, StorageError: a prototxt that is damaged or missing.
    """
    if phase not in _PHASES:
        raise ConfigError(f'phase {phase!r}: "TRAIN" and "TEST" are possible')
    if hasattr(what, "conf"):
        options = {**_options_of(what), **(options or {})}
        if not what.conf:
            raise ConfigError("the configuration names no solver; give conf=, or -conf on the command line")
        what = what.conf
    layers, base_dir, name = _layers(what, phase, list(stages), level)
    sources = [open_source(layer, phase, base_dir, options) for layer in layers if is_data_layer(layer)]
    own = [layer for layer in layers if layer.type in SELF_FED and not layer.bottom]
    if own and not sources:
        return RowlessSource(own[0], phase, base_dir, options)
    if not sources:
        raise DataError(
            f"{name}: no layer that reads data in the phase {phase}; add one of {', '.join(DATA_LAYERS)}, "
            f"or check the include rules of those that are there",
            phase=phase,
        )
    return sources[0] if len(sources) == 1 else ZippedSource(sources)


def _options_of(config: Any) -> dict[str, Any]:
    found = {ours: getattr(config, theirs, None) for theirs, ours in _CONFIG_OPTIONS.items()}
    return {name: value for name, value in found.items() if value}


def _layers(
    what: Any, phase: str, stages: list[str], level: int
) -> tuple[list[caffe_pb2.LayerParameter], str | None, str]:
    """The layers of one phase, the folder their relative names count from, and the net's name for messages."""
    if hasattr(what, "net") and not isinstance(what, caffe_pb2.SolverParameter):
        nets = [what.net] if phase == "TRAIN" else list(getattr(what, "test_nets", []))
        if not nets:
            raise DataError("the solver has no test net", phase=phase)
        what = nets[0]
    if hasattr(what, "layers") and hasattr(what, "phase"):
        return list(what.layers), getattr(what, "folder", None), f'net "{getattr(what, "name", "")}"'
    base_dir = None
    name = "the net"
    if isinstance(what, str | os.PathLike):
        name = os.fspath(what)
        what, base_dir = _read(name), parent(name)
    if isinstance(what, caffe_pb2.SolverParameter):
        what, base_dir, name, more = _net_of(what, phase, base_dir, name)
        stages = [*stages, *(stage for stage in more.stage if stage not in stages)]
        level = level or more.level
    if not isinstance(what, caffe_pb2.NetParameter):
        raise ConfigError(
            f"get_source takes a prototxt's path, a net, a solver or a configuration, not {type(what).__name__}"
        )
    return list(filter_net(what, phase, level, stages).layer), base_dir, name


def _read(path: str) -> caffe_pb2.NetParameter | caffe_pb2.SolverParameter:
    """A net's or a solver's prototxt; a damaged one gives the error of what its name or content suggests."""
    try:
        return read_net(path)
    except ProtoError as net_error:
        try:
            return read_solver(path)
        except ProtoError as solver_error:
            raise (solver_error if "solver" in Path(path).name else net_error) from None


def _net_of(
    solver: caffe_pb2.SolverParameter, phase: str, base_dir: str | None, name: str
) -> tuple[caffe_pb2.NetParameter, str | None, str, caffe_pb2.NetState]:
    """The first net that a solver names for a phase, its folder, its name and its state."""
    if phase == "TRAIN":
        messages = [getattr(solver, field) for field in ("train_net_param", "net_param") if solver.HasField(field)]
        files = [getattr(solver, field) for field in ("train_net", "net") if solver.HasField(field)]
        state = solver.train_state
    else:
        messages = [*solver.test_net_param, *([solver.net_param] if solver.HasField("net_param") else [])]
        files = [*solver.test_net, *([solver.net] if solver.HasField("net") else [])]
        state = solver.test_state[0] if solver.test_state else caffe_pb2.NetState()
    if messages:
        return messages[0], base_dir, name, state
    if not files:
        raise ConfigError(f'{name}: the solver names no net for the phase {phase}; add net: "..."')
    path = resolve(files[0], base_dir)
    return read_net(path), parent(path), path, state
