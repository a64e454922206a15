"""Helpers of the tests in this folder: one layer, built from prototxt text and run in Caffe's layout."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from google.protobuf import text_format

import cosdask.nn.layers  # noqa: F401  # fills the registry
from cosdask.device import compile_function
from cosdask.nn.layer import Array, Layer, make_layer
from cosdask.proto import caffe_pb2

_TO_LAST, _TO_CAFFE = (0, 2, 3, 1), (0, 3, 1, 2)


def build(text: str, *shapes: Sequence[int], phase: str = "TEST") -> Layer:
    """The layer that ``text`` (a LayerParameter's fields, without name) describes."""
    param = text_format.Parse('name: "layer" ' + text, caffe_pb2.LayerParameter())
    if not param.top and "top:" not in text:
        param.top.append("top")
    return make_layer(param, [tuple(shape) for shape in shapes], phase)


def forward(
    layer: Layer, bottoms: Sequence[Array | np.ndarray], weights: Sequence[Array] = (), rng: Array | None = None
) -> list[Array]:
    """The tops, bottoms and tops in Caffe's layout whatever the layer's own is; an operation at a time, or traced."""
    last = layer.layout == "last"
    placed = [jnp.transpose(b, _TO_LAST) if last and b.ndim == 4 else jnp.asarray(b) for b in bottoms]
    tops = layer.forward([jnp.asarray(weight) for weight in weights], placed, rng)
    return [jnp.transpose(top, _TO_CAFFE) if last and top.ndim == 4 else top for top in tops]


def run(
    layer: Layer, bottoms: Sequence[Array | np.ndarray], weights: Sequence[Array] = (), rng: Array | None = None
) -> list[Array]:
    """The same as one program, in place of one for each operation and shape: the time goes into compiling."""
    given = [jnp.asarray(bottom) for bottom in bottoms], [jnp.asarray(weight) for weight in weights], rng
    return compile_function(partial(forward, layer))(*given)  # type: ignore[no-any-return]


def gradient(layer: Layer, bottoms: Sequence[np.ndarray], position: int = 0, weights: Sequence[Array] = ()) -> Array:
    """The gradient of the sum of the first top with respect to one bottom."""

    def total(value: Array) -> Array:
        changed = [jnp.asarray(bottom) for bottom in bottoms]
        changed[position] = value
        return forward(layer, changed, weights)[0].sum()

    return compile_function(jax.grad(total))(jnp.asarray(bottoms[position]))


def normal(seed: int, *shape: int) -> np.ndarray:
    """Reproducible standard normal numbers, float32."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def floats(*values: object) -> np.ndarray:
    """float32 values."""
    return np.array(values, np.float32)
