"""Caffe's messages: reading them as text and binary, upgrading old ones, choosing the layers of a phase."""

from cosdask.proto import caffe_pb2
from cosdask.proto.binary import array_to_blob, blob_to_array, parse_binary, read_binary
from cosdask.proto.blocks import layer_lines
from cosdask.proto.files import initial_weights, parse_net, parse_solver, read_net, read_prototxt, read_solver
from cosdask.proto.filter import filter_by_state, filter_net, layer_included, own_phase, state_meets_rule
from cosdask.proto.splits import insert_splits
from cosdask.proto.text import parse_text, to_text
from cosdask.proto.upgrade import default_snapshot_prefix, upgrade_net, upgrade_solver

__all__ = [
    "array_to_blob",
    "blob_to_array",
    "caffe_pb2",
    "default_snapshot_prefix",
    "filter_by_state",
    "filter_net",
    "initial_weights",
    "insert_splits",
    "layer_included",
    "layer_lines",
    "own_phase",
    "parse_binary",
    "parse_net",
    "parse_solver",
    "parse_text",
    "read_binary",
    "read_net",
    "read_prototxt",
    "read_solver",
    "state_meets_rule",
    "to_text",
    "upgrade_net",
    "upgrade_solver",
]
