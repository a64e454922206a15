"""Accuracy: the share of rows whose label is among the highest scores."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from cosdask.nn.layer import Array, register
from cosdask.nn.layers.labeled import Labeled


@register("Accuracy")
class Accuracy(Labeled):
    """Share of labels whose class has fewer than ``top_k`` other classes of an equal or higher score.

    Labels equal to ``ignore_label`` do not count. A second top gives the share for each class (0 for a class without
    labels). No gradient flows.
    """

    n_tops = (1, 2)
    no_gradient = (0, 1)

    def setup(self) -> None:
        """Read axis, top_k and ignore_label.

        Raises:
            NetError: where there are not as many labels as score vectors, or top_k is not in 1 ... number of classes.
        """
        param = self.param.accuracy_param
        self.set_axis(param.axis)
        if not 1 <= param.top_k <= self.classes:
            self.fail(f"top_k (={param.top_k}) must be in 1 ... {self.classes}, the number of classes.")
        self.ignored = param.ignore_label if param.HasField("ignore_label") else None
        self.top_shapes = [(), (self.classes,)][: len(self.param.top)]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The share of right labels, and where asked for the share for each class."""
        scores, labels, valid = self.rows(lax.stop_gradient(bottoms[0]), bottoms[1], self.ignored)
        is_class = labels[:, None] == jnp.arange(self.classes, dtype=labels.dtype)[None, :]
        own = jnp.where(is_class, scores, jnp.zeros_like(scores)).sum(axis=1, keepdims=True)
        better = (scores >= own).sum(axis=1) - 1
        known = is_class.any(axis=1)
        right = (better < self.param.accuracy_param.top_k) & valid & known
        tops = [_share(right, valid, scores.dtype)]
        if len(self.param.top) > 1:
            tops.append(_share(right[:, None] & is_class, valid[:, None] & is_class, scores.dtype))
        return tops


def _share(right: Array, counted: Array, dtype: jnp.dtype) -> Array:
    """``right / counted`` summed over rows, 0 where nothing counts."""
    number = counted.sum(axis=0).astype(dtype)
    return right.sum(axis=0).astype(dtype) / jnp.maximum(number, jnp.ones_like(number))


__all__ = ["Accuracy"]
