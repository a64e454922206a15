"""Losses of pairs: ContrastiveLoss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cosdask.nn.layer import Array, Layer, count, register


@register("ContrastiveLoss")
class ContrastiveLoss(Layer):
    """Pulls similar pairs together and pushes others ``margin`` apart (Hadsell et al. 2006).

    ``sum over pairs of (d^2 if similar else max(margin - d, 0)^2) / (2 N)`` with d the distance of the pair;
    ``legacy_version`` takes ``max(margin - d^2, 0)`` for the others. Bottoms: (N, C), (N, C), similar (N), 0 or not.
    """

    n_bottoms = (3, 3)
    no_gradient = (2,)
    is_loss = True

    def setup(self) -> None:
        """Check that there are N pairs of vectors.

        Raises:
            NetError: where the shapes do not fit.
        """
        first, second, similar = self.bottom_shapes
        vectors = len(first) >= 2 and count(first[2:]) == 1 and count(second[2:]) == 1
        if not vectors or first[:2] != second[:2] or count(similar) != first[0]:
            self.fail(f"needs bottoms (N, C), (N, C) and (N), not {first}, {second} and {similar}.")
        param = self.param.contrastive_loss_param
        self.margin, self.legacy = param.margin, param.legacy_version
        self.top_shapes = [()]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The loss."""
        pairs = bottoms[0].shape[0]
        difference = bottoms[0].reshape(pairs, -1) - bottoms[1].reshape(pairs, -1)
        similar = lax.stop_gradient(bottoms[2]).reshape(-1).astype(jnp.int32) != 0
        squared = (difference * difference).sum(axis=1)
        if self.legacy:
            gap = self.margin - squared
            apart = jnp.where(gap > 0, gap, jnp.zeros_like(gap))
        else:
            apart = _margin_term(difference, self.margin)
        return [jnp.where(similar, squared, apart).sum() / (2 * pairs)]


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _margin_term(difference: Array, margin: float) -> Array:
    """``max(margin - d, 0)^2`` for each row (N, C), d the row's length.

    The gradient is Caffe's, which divides by ``d + 1e-4`` so that it stays finite for equal pairs.
    """
    distance = jnp.sqrt((difference * difference).sum(axis=1))
    return jnp.square(jnp.maximum(margin - distance, 0.0))


@_margin_term.defjvp
def _margin_term_jvp(margin: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (difference,), (tangent,) = primals, tangents
    distance = jnp.sqrt((difference * difference).sum(axis=1))
    gap = jnp.maximum(margin - distance, 0.0)
    slope = -2 * gap / (distance + 1e-4)
    return jnp.square(gap), (slope[:, None] * difference * tangent).sum(axis=1)


__all__ = ["ContrastiveLoss"]
