"""Fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cosdask.nn.layer import Array, Layer, Weight, canonical_axis, count, register
from cosdask.nn.layers.ops import add_bias, on_cpu


def product(rows: Array, weights: Array) -> Array:
    """``rows @ weights.T``, fast on CPUs too for few rows and many weights.

    Args:
        rows: (M, in).
        weights: (out, in), Caffe's layout.

    Returns:
        (M, out).
    """
    return _weights_first(rows, weights) if on_cpu() else jnp.dot(rows, weights.T)


@jax.custom_vjp
def _weights_first(rows: Array, weights: Array) -> Array:
    """The product with the larger matrix on the left, which the CPU library reads once instead of transposing."""
    return jnp.dot(weights, rows.T).T


def _product_forward(rows: Array, weights: Array) -> tuple[Array, tuple[Array, Array]]:
    return _weights_first(rows, weights), (rows, weights)


def _product_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    rows, weights = saved
    return jnp.dot(gradient, weights), jnp.dot(gradient.T, rows)


_weights_first.defvjp(_product_forward, _product_backward)


@register("InnerProduct")
class InnerProduct(Layer):
    """``x @ W.T + b`` over all axes from ``axis`` (default 1) on.

    W has shape (num_output, inputs), or (inputs, num_output) with ``transpose``.
    """

    arithmetic = "products"

    def setup(self) -> None:
        """Work out shapes.

        Raises:
            NetError: where num_output is missing or the axis is outside of the bottom.
        """
        param, shape = self.param.inner_product_param, self.bottom_shapes[0]
        outputs = param.num_output
        if outputs < 1:
            self.fail("num_output must be given and be 1 or more.")
        self.axis = canonical_axis(self, param.axis, len(shape))
        inputs = count(shape[self.axis :])
        self.top_shapes = [(*shape[: self.axis], outputs)]
        self.weights = [Weight((inputs, outputs) if param.transpose else (outputs, inputs), param.weight_filler)]
        if param.bias_term:
            self.weights.append(Weight((outputs,), param.bias_filler))

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The bottom's rows times the weights."""
        values = bottoms[0]
        rows = values.reshape(count(values.shape[: self.axis]), count(values.shape[self.axis :]))
        turned = self.param.inner_product_param.transpose
        top = jnp.dot(rows, weights[0]) if turned else product(rows, weights[0])
        if len(weights) > 1:
            top = add_bias(top, weights[1])
        return [top.reshape(*values.shape[: self.axis], top.shape[1])]


__all__ = ["InnerProduct", "product"]
