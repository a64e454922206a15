"""Caffe's fillers: how a blob's first values are drawn.

One set of formulas serves two kinds of random numbers: a NumPy generator (weights, drawn on the host, so that CPU and
GPU start alike and nothing is compiled for it) and a JAX key (DummyData, drawn inside a compiled step).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cosdask.errors import NetError, did_you_mean
from cosdask.nn.layer import Shape, count
from cosdask.proto import caffe_pb2


class _Draw(Protocol):
    def uniform(self, low: float, high: float, shape: Shape) -> Any: ...
    def normal(self, mean: float, std: float, shape: Shape) -> Any: ...
    def keep(self, probability: float, shape: Shape) -> Any: ...


class _HostDraw:
    """Random numbers from a NumPy generator."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def uniform(self, low: float, high: float, shape: Shape) -> Any:
        unit = self._generator.random(shape, dtype=np.float32)
        return unit * np.float32(high - low) + np.float32(low)

    def normal(self, mean: float, std: float, shape: Shape) -> Any:
        unit = self._generator.standard_normal(shape, dtype=np.float32)
        return unit * np.float32(std) + np.float32(mean)

    def keep(self, probability: float, shape: Shape) -> Any:
        return (self._generator.random(shape, dtype=np.float32) < probability).astype(np.float32)


class _KeyDraw:
    """Random numbers from a JAX key; each call uses a key of its own."""

    def __init__(self, key: jax.Array) -> None:
        self._key = key

    def _next(self) -> jax.Array:
        self._key, key = jax.random.split(self._key)
        return key

    def uniform(self, low: float, high: float, shape: Shape) -> Any:
        return jax.random.uniform(self._next(), shape, jnp.float32, minval=low, maxval=high)

    def normal(self, mean: float, std: float, shape: Shape) -> Any:
        return jax.random.normal(self._next(), shape, jnp.float32) * jnp.float32(std) + jnp.float32(mean)

    def keep(self, probability: float, shape: Shape) -> Any:
        return jax.random.bernoulli(self._next(), probability, shape).astype(jnp.float32)


def fill(filler: caffe_pb2.FillerParameter | None, shape: Shape, rng: np.random.Generator | jax.Array | None) -> Any:
    """The first values of a blob.

    Args:
        filler: the prototxt's message; None fills with zeros.
        shape: Caffe's shape of the blob.
        rng: a NumPy generator or a JAX key; may be None for ``constant`` and ``bilinear``.

    Returns:
        float32 of ``shape``: NumPy for a generator (or None), JAX for a key.

    Raises:
        NetError: for an unknown filler type, or a shape that the filler cannot fill.

    Example:
        >>> fill(caffe_pb2.FillerParameter(type="constant", value=0.5), (2,), None)
        array([0.5, 0.5], dtype=float32)
    """
    if filler is None:
        return np.zeros(shape, np.float32)
    if problem := filler_problem(filler):
        raise NetError(problem)
    rule = _FILLERS[filler.type]
    if rng is None:
        if needs_rng(filler):
            raise NetError(f'a filler of type "{filler.type}" draws random numbers and needs rng.')
        rng = np.random.default_rng(0)
    draw: _Draw = _HostDraw(rng) if isinstance(rng, np.random.Generator) else _KeyDraw(rng)
    return rule(filler, shape, draw)


def filler_problem(filler: caffe_pb2.FillerParameter | None) -> str:
    """What is wrong with a filler, found without drawing: an unknown type; empty where nothing is."""
    if filler is None or filler.type in _FILLERS:
        return ""
    return f'unknown filler type "{filler.type}".{did_you_mean(filler.type, _FILLERS)} Known: {", ".join(_FILLERS)}.'


def needs_rng(filler: caffe_pb2.FillerParameter | None) -> bool:
    """Whether the filler draws random numbers."""
    return filler is not None and filler.type not in ("constant", "bilinear")


def _constant(filler: caffe_pb2.FillerParameter, shape: Shape, draw: _Draw) -> Any:
    return np.full(shape, filler.value, np.float32)


def _uniform(filler: caffe_pb2.FillerParameter, shape: Shape, draw: _Draw) -> Any:
    return draw.uniform(filler.min, filler.max, shape)


def _gaussian(filler: caffe_pb2.FillerParameter, shape: Shape, draw: _Draw) -> Any:
    values = draw.normal(filler.mean, filler.std, shape)
    if filler.sparse < 0:
        return values
    # "sparse" is the wanted number of non-zero weights per output, the outputs being axis 0
    return values * draw.keep(filler.sparse / shape[0], shape)


def _fan(filler: caffe_pb2.FillerParameter, shape: Shape) -> float:
    """Number of inputs, of outputs, or their mean, as ``variance_norm`` asks."""
    fan_in = count(shape) / shape[0]
    fan_out = count(shape) / shape[1] if len(shape) > 1 else float(count(shape))
    if filler.variance_norm == caffe_pb2.FillerParameter.AVERAGE:
        return (fan_in + fan_out) / 2
    return fan_out if filler.variance_norm == caffe_pb2.FillerParameter.FAN_OUT else fan_in


def _xavier(filler: caffe_pb2.FillerParameter, shape: Shape, draw: _Draw) -> Any:
    """Uniform in +-sqrt(3 / fan) (Glorot and Bengio 2010, with Caffe's choice of fan)."""
    scale = math.sqrt(3.0 / _fan(filler, shape))
    return draw.uniform(-scale, scale, shape)


def _msra(filler: caffe_pb2.FillerParameter, shape: Shape, draw: _Draw) -> Any:
    """Gaussian with standard deviation sqrt(2 / fan) (He et al. 2015)."""
    return draw.normal(0.0, math.sqrt(2.0 / _fan(filler, shape)), shape)


def _positive_unitball(filler: caffe_pb2.FillerParameter, shape: Shape, draw: _Draw) -> Any:
    """Uniform in [0, 1), each output's weights then scaled to a sum of 1."""
    rows = draw.uniform(0.0, 1.0, (shape[0], count(shape) // shape[0]))
    return (rows / rows.sum(axis=1, keepdims=True)).reshape(shape)


def _bilinear(filler: caffe_pb2.FillerParameter, shape: Shape, draw: _Draw) -> Any:
    """Weights of bilinear upsampling, for Deconvolution with kernel 2f - f%2 and stride f."""
    if len(shape) != 4 or shape[2] != shape[3]:
        raise NetError(f"a bilinear filler needs a blob of 4 axes with square kernels, not shape {shape}.")
    width = shape[3]
    factor = math.ceil(width / 2.0)
    center = (width - 1) / (2.0 * factor)
    line = 1 - np.abs(np.arange(width) / factor - center)
    return np.broadcast_to(np.outer(line, line), shape).astype(np.float32)


_FILLERS: dict[str, Callable[[caffe_pb2.FillerParameter, Shape, _Draw], Any]] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "xavier": _xavier,
    "msra": _msra,
    "positive_unitball": _positive_unitball,
    "bilinear": _bilinear,
}
