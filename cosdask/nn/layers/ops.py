"""Operations that several layers share, each in the form that XLA runs fast on CPUs.

Channels are the last axis: ``(..., C)``. The times behind these forms are in benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from cosdask.nn.layer import Array, Layer, Layout

Result = TypeVar("Result")

#: below this many values a separate pass costs more than computing them again
_WORTH_ISOLATING = 1 << 14


def use_layout(layer: Layer, layout: Layout) -> None:
    """Let one layer run in another layout than its class, because of its axis or the rank of its bottoms."""
    layer.layout = layout


def on_cpu() -> bool:
    """Whether the arrays of this trace live on CPUs."""
    return jax.default_backend() == "cpu"


def isolated(function: Callable[..., Result], *arrays: Array) -> Result:
    """``function(*arrays)``, computed once and not again inside of every consumer's loop.

    XLA's CPU backend fuses cheap operations into all their consumers and ignores optimization barriers. What it
    cannot look through is a branch, so this makes one whose condition is always true and unknown until run time.

    Args:
        function: a pure function of arrays.
        arrays: its arguments; the first one is of a float dtype.
    """
    first = arrays[0]
    if not on_cpu() or first.size < _WORTH_ISOLATING:
        return function(*arrays)
    shapes = jax.eval_shape(function, *arrays)

    def never(*_: Array) -> Result:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    integer = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[first.dtype.itemsize]
    bits = lax.bitcast_convert_type(first[(0,) * first.ndim], integer)
    return lax.cond((bits & 1) < 2, function, never, *arrays)


def channel_sum(values: Array) -> Array:
    """Sum over all axes but the last: ``(..., C)`` to ``(C,)``.

    On CPUs it is a product with a row of ones, which uses all threads and vector units where a reduction does not.

    Example:
        >>> channel_sum(jnp.ones((2, 3, 4))).tolist()
        [6.0, 6.0, 6.0, 6.0]
    """
    channels = values.shape[-1]
    flat = values.reshape(values.size // channels if channels else 0, channels)
    if not on_cpu():
        return flat.sum(axis=0)
    ones = jnp.ones((1, flat.shape[0]), values.dtype)
    return jnp.dot(ones, flat, precision=lax.Precision.HIGHEST)[0]


def over_channels(vector: Array, rank: int) -> Array:
    """A vector ``(C,)`` as ``(1, ..., 1, C)``, to be broadcast against channels-last values."""
    return vector.reshape((1,) * (rank - 1) + vector.shape)


@jax.custom_vjp
def add_bias(values: Array, bias: Array) -> Array:
    """``values`` of ``(..., C)`` plus ``bias`` of ``(C,)``."""
    return values + over_channels(bias, values.ndim)


def _add_bias_forward(values: Array, bias: Array) -> tuple[Array, None]:
    return add_bias(values, bias), None


def _add_bias_backward(_: None, gradient: Array) -> tuple[Array, Array]:
    return gradient, channel_sum(gradient)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


@jax.custom_vjp
def scale_channels(values: Array, scale: Array) -> Array:
    """``values`` of ``(..., C)`` times ``scale`` of ``(C,)``."""
    return values * over_channels(scale, values.ndim)


def _scale_forward(values: Array, scale: Array) -> tuple[Array, tuple[Array, Array]]:
    return scale_channels(values, scale), (values, scale)


def _scale_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    values, scale = saved
    return gradient * over_channels(scale, gradient.ndim), channel_sum(gradient * values)


scale_channels.defvjp(_scale_forward, _scale_backward)


__all__ = ["add_bias", "channel_sum", "isolated", "on_cpu", "over_channels", "scale_channels", "use_layout"]
