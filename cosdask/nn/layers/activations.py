"""Activation functions: ReLU, Sigmoid, TanH, Softmax, and Power."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cosdask.nn.layer import Array, Layer, canonical_axis, register
from cosdask.nn.layers.ops import isolated, use_layout


class _Activation(Layer):
    """A function of single values: the top has the bottom's shape."""

    arithmetic = "as_given"

    layout = "any"

    def setup(self) -> None:
        """The top's shape is the bottom's."""
        self.top_shapes = [self.bottom_shapes[0]]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def relu(values: Array, slope: float = 0.0) -> Array:
    """``max(x, 0) + slope * min(x, 0)``; where x is 0 the gradient is ``slope`` times the top's, as in Caffe."""
    if slope == 0:
        return jnp.maximum(values, 0)
    return jnp.where(values > 0, values, values * slope)


def _relu_forward(values: Array, slope: float) -> tuple[Array, Array]:
    top = relu(values, slope)
    # with a slope of 0 the top tells as much as the bottom, which then need not be kept
    return top, top if slope == 0 else values


def _relu_backward(slope: float, saved: Array, gradient: Array) -> tuple[Array]:
    def masked(gradient: Array, saved: Array) -> Array:
        return jnp.where(saved > 0, gradient, gradient * slope if slope else jnp.zeros_like(gradient))

    # below a convolution this is read three times: by the gradients of its weight, bias and bottom
    return (isolated(masked, gradient, saved),)


relu.defvjp(_relu_forward, _relu_backward)


@register("ReLU")
class ReLU(_Activation):
    """``max(x, 0) + negative_slope * min(x, 0)`` (Nair and Hinton 2010)."""

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The rectified bottom."""
        return [relu(bottoms[0], self.param.relu_param.negative_slope)]


@register("Sigmoid")
class Sigmoid(_Activation):
    """``1 / (1 + exp(-x))``."""

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The sigmoid of the bottom."""
        return [jax.nn.sigmoid(bottoms[0])]


@register("TanH")
class TanH(_Activation):
    """Hyperbolic tangent."""

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The hyperbolic tangent of the bottom."""
        return [jnp.tanh(bottoms[0])]


@register("Power")
class Power(_Activation):
    """``(shift + scale * x) ** power``."""

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The power of the scaled and shifted bottom; the constant 1 (without gradient) for a power of 0."""
        param, values = self.param.power_param, bottoms[0]
        if param.power == 0:
            return [jnp.ones_like(values)]
        if param.scale != 1:
            values = values * param.scale
        if param.shift != 0:
            values = values + param.shift
        if param.power == int(param.power) and 1 <= param.power <= 4:
            return [lax.integer_pow(values, int(param.power))]
        return [values**param.power]


@register("Softmax")
class Softmax(Layer):
    """``exp(x) / sum(exp(x))`` over ``axis`` (default 1)."""

    def setup(self) -> None:
        """Read the axis.

        Raises:
            NetError: where the axis is outside of the bottom.
        """
        shape = self.bottom_shapes[0]
        self.axis = canonical_axis(self, self.param.softmax_param.axis, len(shape))
        if len(shape) == 4 and self.axis == 1:
            use_layout(self, "last")
            self.axis = 3
        self.top_shapes = [shape]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """Probabilities."""
        return [jax.nn.softmax(bottoms[0], axis=self.axis)]


__all__ = ["Power", "ReLU", "Sigmoid", "Softmax", "TanH", "relu"]
