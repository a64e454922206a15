"""MVN: mean-variance normalization of each image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from cosdask.nn.layer import Array, Layer, register
from cosdask.nn.layers.ops import use_layout


@register("MVN")
class MVN(Layer):
    """``y = (x - mean) / (sqrt(variance) + eps)`` over each channel of each sample.

    With ``across_channels`` it is over each sample.

    With ``normalize_variance: false`` only the mean is taken off. The variance is the mean square of ``x - mean``.
    """

    arithmetic = "sums"

    def setup(self) -> None:
        """Read the fields.

        Raises:
            NetError: for a bottom without axes.
        """
        param = self.param.mvn_param
        if not self.bottom_shapes[0]:
            self.fail("needs a bottom of 1 or more axes, whose first is the sample.")
        rank = len(self.bottom_shapes[0])
        self.axes = tuple(range(1 if param.across_channels else 2, rank))
        if rank == 4:
            use_layout(self, "last")
            self.axes = (1, 2, 3) if param.across_channels else (1, 2)
        self.normalize_variance, self.eps = param.normalize_variance, param.eps
        self.top_shapes = [self.bottom_shapes[0]]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The normalized values, in the bottom's shape."""
        centered = bottoms[0] - bottoms[0].mean(axis=self.axes, keepdims=True)
        return [_unit_variance(centered, self.axes, self.eps) if self.normalize_variance else centered]


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _unit_variance(centered: Array, axes: tuple[int, ...], eps: float) -> Array:
    """``x / (sqrt(mean(x^2)) + eps)`` for an ``x`` of mean zero over ``axes``.

    The gradient is Caffe's, which takes ``eps`` as 0 in the inner derivative: it stays finite where the variance is 0.
    """
    return _unit_variance_forward(centered, axes, eps)[0]


def _unit_variance_forward(centered: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, tuple[Array, Array]]:
    deviation = jnp.sqrt((centered * centered).mean(axis=axes, keepdims=True)) + eps
    top = centered / deviation
    return top, (top, deviation)


def _unit_variance_backward(
    axes: tuple[int, ...], eps: float, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array]:
    top, deviation = saved
    return ((gradient - top * (gradient * top).mean(axis=axes, keepdims=True)) / deviation,)


_unit_variance.defvjp(_unit_variance_forward, _unit_variance_backward)


__all__ = ["MVN"]
