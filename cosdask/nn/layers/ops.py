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
#: parts into which rows are cut to be summed: a power of two
_PARTS = 8


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

    return lax.cond(_true_at_run_time(first), function, never, *arrays)


def _true_at_run_time(values: Array) -> Array:
    """True, which the compiler cannot know: one bit of the first value is less than 2."""
    integer = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[values.dtype.itemsize]
    return (lax.bitcast_convert_type(values[(0,) * values.ndim], integer) & 1) < 2


def computed_once(scalar: Array) -> Array:
    """The scalar, stored before it is used.

    XLA's CPU backend puts a scalar's whole computation into each kernel that reads it. Where every weight's update
    reads a number that comes of all gradients, the program, the time to compile it and the time to load it again grow
    with the square of their number: to 57 and 12 seconds for GoogLeNet's step, which takes 28 and 7.

    Args:
        scalar: float32.
    """
    if not on_cpu():
        return scalar
    return lax.cond(_true_at_run_time(scalar), lambda value: value, jnp.zeros_like, scalar)


def channel_sum(values: Array) -> Array:
    """Sum over all axes but the last: ``(..., C)`` to ``(C,)``; see :func:`channel_sum_of`.

    Example:
        >>> channel_sum(jnp.ones((2, 3, 4))).tolist()
        [6.0, 6.0, 6.0, 6.0]
    """
    return channel_sum_of(lambda rows: rows, values)


def channel_sum_of(function: Callable[..., Array], *arrays: Array) -> Array:
    """``function(*arrays)``, a function of single values and channels, summed over all axes but the last.

    XLA's reductions over outer axes use neither all threads nor vector units on CPUs. So the rows are cut into a few
    parts, which one loop adds up, computing the function on the way instead of storing what it gives; a product with
    a row of ones sums what is left.

    Args:
        function: of rows ``(M, C)``, M being any number, that gives as many.
        arrays: of ``(..., C)`` each.

    Example:
        >>> channel_sum_of(jnp.multiply, jnp.ones((2, 3, 2)), jnp.full((2, 3, 2), 2.0)).tolist()
        [12.0, 12.0]
    """
    channels = arrays[0].shape[-1]
    rows = arrays[0].size // channels if channels else 0
    if not on_cpu():
        return function(*(array.reshape(rows, channels) for array in arrays)).sum(axis=0)
    parts = _PARTS if rows % _PARTS == 0 and arrays[0].size >= _WORTH_ISOLATING else 1
    cut = [array.reshape(parts, rows // parts, channels) for array in arrays]
    terms = [function(*(lax.index_in_dim(array, part, keepdims=False) for array in cut)) for part in range(parts)]
    while len(terms) > 1:
        terms = [first + second for first, second in zip(terms[::2], terms[1::2], strict=True)]
    ones = jnp.ones((1, rows // parts), terms[0].dtype)
    return jnp.dot(ones, terms[0], precision=lax.Precision.HIGHEST)[0]


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
    return gradient * over_channels(scale, gradient.ndim), channel_sum_of(jnp.multiply, gradient, values)


scale_channels.defvjp(_scale_forward, _scale_backward)


__all__ = [
    "add_bias",
    "channel_sum",
    "channel_sum_of",
    "isolated",
    "on_cpu",
    "over_channels",
    "scale_channels",
    "use_layout",
]
