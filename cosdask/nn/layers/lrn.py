"""Local response normalization (Krizhevsky et al. 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cosdask.nn.layer import Array, Layer, register
from cosdask.nn.layers.ops import isolated
from cosdask.proto import caffe_pb2

#: wider windows than this are summed by XLA's window reduction instead of shift by shift
_WIDEST_UNROLLED = 15


def _neighbor_sum(values: Array, size: int) -> Array:
    """Sum over the ``size`` channels around each channel of ``(..., C)``; channels beyond the ends count as 0."""
    half, channels = (size - 1) // 2, values.shape[-1]
    zero = np.zeros((), values.dtype)
    if size > _WIDEST_UNROLLED:
        ones = (1,) * (values.ndim - 1)
        pads = ((0, 0),) * (values.ndim - 1) + ((half, half),)
        return lax.reduce_window(values, zero, lax.add, (*ones, size), (*ones, 1), pads)
    padded = lax.pad(values, zero, ((0, 0, 0),) * (values.ndim - 1) + ((half, half, 0),))
    return reduce(add, [lax.slice_in_dim(padded, i, i + channels, axis=-1) for i in range(size)])


def _to_minus(base: Array, beta: float) -> Array:
    """``base ** -beta``; AlexNet's 0.75 through square roots, which are cheap."""
    if beta == 0.75:
        root = lax.rsqrt(base)
        return root * lax.sqrt(root)
    return base ** jnp.asarray(-beta, base.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def normalize_across(values: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """``x * (k + alpha / size * sum of x² over nearby channels) ** -beta`` for channels-last ``(..., C)``."""

    def top(values: Array) -> Array:
        return values * _to_minus(k + alpha / size * _neighbor_sum(values * values, size), beta)

    return isolated(top, values)


def _across_forward(values: Array, size: int, alpha: float, beta: float, k: float) -> tuple[Array, Array]:
    return normalize_across(values, size, alpha, beta, k), values


def _across_backward(size: int, alpha: float, beta: float, k: float, values: Array, gradient: Array) -> tuple[Array]:
    def bottom(gradient: Array, values: Array) -> Array:
        base = k + alpha / size * _neighbor_sum(values * values, size)
        power = _to_minus(base, beta)
        spread = _neighbor_sum(gradient * values * power / base, size)
        return gradient * power - (2 * alpha * beta / size) * values * spread

    return (isolated(bottom, gradient, values),)


normalize_across.defvjp(_across_forward, _across_backward)


def normalize_within(values: Array, size: int, alpha: float, beta: float) -> Array:
    """``x * (1 + alpha * mean of x² over a size x size window) ** -beta`` for ``(N, H, W, C)``.

    The window's mean counts places beyond the image as 0, and Caffe leaves ``k`` out of this form.
    """
    half = (size - 1) // 2
    zero = np.zeros((), values.dtype)  # JAX recognizes a sum, and its gradient, by a start that is no traced value
    pads = ((0, 0), (half, half), (half, half), (0, 0))
    total = lax.reduce_window(values * values, zero, lax.add, (1, size, size, 1), (1, 1, 1, 1), pads)
    return values * _to_minus(1 + alpha / (size * size) * total, beta)


@register("LRN")
class LRN(Layer):
    """Divide each value by a power of the squares around it: across channels, or within its channel."""

    arithmetic = "sums"

    layout = "last"

    def setup(self) -> None:
        """Check the window.

        Raises:
            NetError: where local_size is not odd, or the bottom has not 4 axes.
        """
        size, shape = self.param.lrn_param.local_size, self.bottom_shapes[0]
        if size % 2 == 0:
            self.fail(f"local_size (={size}) must be odd.")
        if len(shape) != 4:
            self.fail(f"needs a bottom of 4 axes (num, channels, height, width), not shape {shape}.")
        self.top_shapes = [shape]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The normalized bottom."""
        param = self.param.lrn_param
        if param.norm_region == caffe_pb2.LRNParameter.WITHIN_CHANNEL:
            return [normalize_within(bottoms[0], param.local_size, param.alpha, param.beta)]
        return [normalize_across(bottoms[0], param.local_size, param.alpha, param.beta, param.k)]


__all__ = ["LRN", "normalize_across", "normalize_within"]
