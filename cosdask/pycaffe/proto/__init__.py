"""``caffe.proto``: Caffe's messages."""

import sys

from cosdask.proto import caffe_pb2

# so that ``import cosdask.pycaffe.proto.caffe_pb2`` finds the one generated module
sys.modules[f"{__name__}.caffe_pb2"] = caffe_pb2

__all__ = ["caffe_pb2"]
