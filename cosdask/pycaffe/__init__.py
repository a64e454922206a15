"""pycaffe's names on cosdask: ``import cosdask.pycaffe as caffe``."""

from cosdask.pycaffe.net import TEST, TRAIN, Net

__all__ = ["TEST", "TRAIN", "Net"]
