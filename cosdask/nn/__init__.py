"""Networks: from a prototxt to a pure JAX function, with one registry of layer types."""

from cosdask.nn.layer import Layer, Weight, register_layer
from cosdask.nn.net import Net
from cosdask.nn.user_code import allow_python_layers

__all__ = ["Layer", "Net", "Weight", "allow_python_layers", "register_layer"]
