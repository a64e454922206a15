"""Caffe's messages: reading them as text and binary, upgrading old ones, choosing the layers of a phase."""

from cosdask.proto import caffe_pb2

__all__ = ["caffe_pb2"]
