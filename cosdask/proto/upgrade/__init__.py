"""Old messages brought to today's form, as Caffe does whenever it reads a file.

Four generations of nets are in use: V0 (``layers { layer { type: "conv" } }``), V1 (``layers { type: CONVOLUTION }``),
today's (``layer { type: "Convolution" }``), and each of them with older ways to say data transformations, inputs and
BatchNorm's parameters.
"""

from __future__ import annotations

from cosdask.proto import caffe_pb2
from cosdask.proto.upgrade.fields import move_transforms, replace_inputs, stop_batch_norm_learning
from cosdask.proto.upgrade.solver import default_snapshot_prefix, replace_solver_type
from cosdask.proto.upgrade.v0 import v0_to_v1
from cosdask.proto.upgrade.v1 import v1_to_v2

__all__ = ["default_snapshot_prefix", "upgrade_net", "upgrade_solver"]


def upgrade_net(net: caffe_pb2.NetParameter, keep: bool = True) -> caffe_pb2.NetParameter:
    """A net of any age in today's form; weights in it (``blobs``) come along.

    Args:
        net: the message as read; it stays as it is where it is to be kept.
        keep: whether it is; weights need their memory twice then.

    Returns:
        A message, a new one where the old one is kept, with ``layer`` in place of ``layers`` and Input layers in place
        of ``input`` fields.

    Raises:
        ProtoError: an unknown V0 type, a padding layer read by neither a convolution nor a pooling, inputs without
            matching shapes, or ``layer`` and ``layers`` in one net (Caffe would quietly leave one kind out).

    Example:
        >>> old = caffe_pb2.NetParameter(layers=[{"name": "c", "type": "CONVOLUTION"}])
        >>> upgrade_net(old).layer[0].type
        'Convolution'
    """
    upgraded = net
    if keep:
        upgraded = caffe_pb2.NetParameter()
        upgraded.CopyFrom(net)
    if any(layer.HasField("layer") for layer in upgraded.layers):
        upgraded = v0_to_v1(upgraded)
    if upgraded.layers:
        move_transforms(upgraded)
        upgraded = v1_to_v2(upgraded)
    replace_inputs(upgraded)
    stop_batch_norm_learning(upgraded)
    return upgraded


def upgrade_solver(solver: caffe_pb2.SolverParameter) -> caffe_pb2.SolverParameter:
    """A solver of any age in today's form: ``type`` in place of ``solver_type``, and the nets in it upgraded.

    Args:
        solver: the message as read; it stays as it is.

    Raises:
        ProtoError: both ``type`` and ``solver_type`` are given, or as :func:`upgrade_net`.

    Example:
        >>> upgrade_solver(caffe_pb2.SolverParameter(solver_type="ADAGRAD")).type
        'AdaGrad'
    """
    upgraded = caffe_pb2.SolverParameter()
    upgraded.CopyFrom(solver)
    replace_solver_type(upgraded)
    for field in ("net_param", "train_net_param"):
        if upgraded.HasField(field):
            net: caffe_pb2.NetParameter = getattr(upgraded, field)
            net.CopyFrom(upgrade_net(net))
    for net in upgraded.test_net_param:
        net.CopyFrom(upgrade_net(net))
    return upgraded
