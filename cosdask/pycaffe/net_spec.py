"""``caffe.net_spec``: nets written in Python (see :mod:`cosdask.proto.net_spec`)."""

from cosdask.proto.net_spec import (
    Function,
    Layers,
    NetSpec,
    Parameters,
    Top,
    UnknownBlobError,
    layers,
    params,
    to_proto,
)

__all__ = [
    "Function",
    "Layers",
    "NetSpec",
    "Parameters",
    "Top",
    "UnknownBlobError",
    "layers",
    "params",
    "to_proto",
]
