"""Old ways of writing a solver."""

from __future__ import annotations

import posixpath

from cosdask.errors import ProtoError
from cosdask.proto import caffe_pb2

_TYPES = {
    caffe_pb2.SolverParameter.SGD: "SGD",
    caffe_pb2.SolverParameter.NESTEROV: "Nesterov",
    caffe_pb2.SolverParameter.ADAGRAD: "AdaGrad",
    caffe_pb2.SolverParameter.RMSPROP: "RMSProp",
    caffe_pb2.SolverParameter.ADADELTA: "AdaDelta",
    caffe_pb2.SolverParameter.ADAM: "Adam",
}


def replace_solver_type(solver: caffe_pb2.SolverParameter) -> None:
    """Writes ``type`` in place of ``solver_type``, in place.

    Raises:
        ProtoError: both are given.
    """
    if not solver.HasField("solver_type"):
        return
    if solver.HasField("type"):
        old = caffe_pb2.SolverParameter.SolverType.Name(solver.solver_type)
        raise ProtoError(f'the solver has both type: "{solver.type}" and the old solver_type: {old}; keep only type')
    solver.type = _TYPES[solver.solver_type]
    solver.ClearField("solver_type")


def default_snapshot_prefix(solver_path: str) -> str:
    """The prefix of snapshots where the solver names none: the solver file's own path without its ending.

    Example:
        >>> default_snapshot_prefix("models/lenet_solver.prototxt")
        'models/lenet_solver'
    """
    return posixpath.splitext(solver_path)[0]
