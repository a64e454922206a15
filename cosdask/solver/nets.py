"""Which nets a solver trains and tests: ``net``, ``train_net``, ``test_net``, inline nets, and their states."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cosdask.errors import SolverError
from cosdask.nn.net import Net
from cosdask.proto import caffe_pb2, filter_net, read_net
from cosdask.storage import parent, resolve

Param = caffe_pb2.SolverParameter


@dataclass(frozen=True)
class NetSource:
    """A net that a solver names: a file or a message, and the state to filter it with."""

    where: str | caffe_pb2.NetParameter
    phase: str
    level: int | None = None
    stages: tuple[str, ...] = ()
    folder: str | None = None
    #: whether the solver states the phase; else a phase that the net states goes before this one
    phase_is_stated: bool = False

    @property
    def state_phase(self) -> str:
        """The phase that the solver states, else the net's own, else that of its place (``Solver::InitTrainNet``)."""
        own = self._message().state
        return self.phase if self.phase_is_stated or not own.HasField("phase") else caffe_pb2.Phase.Name(own.phase)

    @property
    def state_level(self) -> int:
        """The level that the solver states, else the net's own."""
        return self._message().state.level if self.level is None else self.level

    def layers(self) -> list[caffe_pb2.LayerParameter]:
        """The net's layers in its phase, without building it."""
        return list(filter_net(self._message(), self.state_phase, self.state_level, self.stages).layer)

    def _message(self) -> caffe_pb2.NetParameter:
        return self.where if isinstance(self.where, caffe_pb2.NetParameter) else read_net(self.where)

    def open(
        self,
        weights: str | None = None,
        seed: int | None = None,
        tops: Mapping[str, Sequence[int]] | None = None,
        precision: str = "float32",
    ) -> Net:
        """Build the net; ``tops`` are the shapes of its data layers' tops where its rows come from elsewhere."""
        return Net(
            self.where,
            phase=self.state_phase,
            level=self.state_level,
            stages=self.stages,
            weights=weights,
            seed=seed,
            folder=self.folder,
            input_shapes=tops,
            precision=precision,
        )


def train_net(param: Param, path: str | None) -> NetSource:
    """The one net to train.

    Raises:
        SolverError: where the solver names none or several.
    """
    named = [name for name in ("net", "net_param", "train_net", "train_net_param") if param.HasField(name)]
    if len(named) != 1:
        found = " and ".join(named) if named else "none of them"
        raise SolverError(
            f"{path or 'solver'}: state exactly one of net, net_param, train_net, train_net_param; {found} given."
        )
    return _source(getattr(param, named[0]), "TRAIN", param.train_state, path)


def test_nets(param: Param, path: str | None) -> list[NetSource]:
    """The nets to test, in Caffe's order: ``test_net_param``, ``test_net``, then ``net`` for what ``test_iter`` leaves.

    Raises:
        SolverError: where ``test_iter`` or ``test_state`` do not go with the number of nets.
    """
    stated: list[str | caffe_pb2.NetParameter] = [*param.test_net_param, *param.test_net]
    shared: list[str | caffe_pb2.NetParameter] = []
    if param.HasField("net"):
        shared = [param.net]
    elif param.HasField("net_param"):
        shared = [param.net_param]
    count = len(param.test_iter)
    if (not shared and count != len(stated)) or count < len(stated):
        raise SolverError(f"{path or 'solver'}: test_iter is given {count} time(s) for {len(stated)} test net(s).")
    everything = stated + shared * (count - len(stated))
    states = list(param.test_state)
    if states and len(states) != len(everything):
        raise SolverError(
            f"{path or 'solver'}: test_state is given {len(states)} time(s) for {len(everything)} test net(s)."
        )
    return [
        _source(where, "TEST", states[i] if states else caffe_pb2.NetState(), path)
        for i, where in enumerate(everything)
    ]


def _source(where: str | caffe_pb2.NetParameter, phase: str, state: caffe_pb2.NetState, path: str | None) -> NetSource:
    folder = parent(path) if path else None
    if isinstance(where, str):
        where = resolve(where, folder)
        folder = parent(where)
    level = state.level if state.HasField("level") else None
    stated = state.HasField("phase")
    phase = caffe_pb2.Phase.Name(state.phase) if stated else phase
    return NetSource(where, phase, level, tuple(state.stage), folder, stated)


def snapshot_prefix(param: Param, path: str | None) -> str:
    """Where snapshots go: as stated; a folder gets the solver file's name, which is also the default."""
    stem = os.path.splitext(os.path.basename(path))[0] if path else "solver"
    if not param.snapshot_prefix:
        return os.path.join(parent(path), stem) if path else stem
    if os.path.isdir(param.snapshot_prefix):
        return os.path.join(param.snapshot_prefix, stem)
    return param.snapshot_prefix
