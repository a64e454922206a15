"""Networks: from a prototxt to a pure JAX function, with one registry of layer types."""

from cosdask.nn.layer import Layer, Weight, register_layer
from cosdask.nn.net import Net

__all__ = ["Layer", "Net", "Weight", "register_layer"]
