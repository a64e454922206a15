"""Embed: a learned vector for each of a number of ids."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from cosdask.nn.layer import Array, Layer, Weight, register
from cosdask.nn.layers.selection import checked_rows


@register("Embed")
class Embed(Layer):
    """Replaces each id in the bottom with its row of the weight, plus a bias shared by all ids.

    Bottom (...) of ids in [0, input_dim), top (..., num_output). Weights: (input_dim, num_output) and, unless
    ``bias_term`` is false, (num_output,). The id -1, which fills up CaffeOnSpark's caption vectors, stands for a row of
    zeros that nothing is learned from. Any other id outside of the range gives NaN.
    """

    no_gradient = (0,)

    def setup(self) -> None:
        """State the weights.

        Raises:
            NetError: where num_output or input_dim is missing.
        """
        param = self.param.embed_param
        if param.num_output < 1 or param.input_dim < 1:
            self.fail(
                f"embed_param needs num_output (={param.num_output}) and input_dim (={param.input_dim}) of 1 or more."
            )
        self.weights = [Weight((param.input_dim, param.num_output), param.weight_filler)]
        if param.bias_term:
            self.weights.append(Weight((param.num_output,), param.bias_filler))
        self.top_shapes = [(*self.bottom_shapes[0], param.num_output)]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """Look the rows up."""
        table = weights[0]
        padding = lax.stop_gradient(bottoms[0]) == -1
        ids = checked_rows(jnp.where(padding, 0, bottoms[0]), table.shape[0])
        rows = jnp.where(padding[..., None], 0.0, jnp.take(table, ids, axis=0, mode="fill"))
        if len(weights) == 1:
            return [rows]
        return [rows + lax.expand_dims(weights[1], range(rows.ndim - 1))]


__all__ = ["Embed"]
