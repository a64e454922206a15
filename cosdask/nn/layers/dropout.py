"""Dropout (Srivastava et al. 2014)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cosdask.nn.layer import Array, Layer, register


@register("Dropout")
class Dropout(Layer):
    """In TRAIN, zero each value with probability ``dropout_ratio`` and scale the others by ``1 / (1 - dropout_ratio)``.

    In TEST the values pass unchanged.
    """

    arithmetic = "as_given"

    layout = "any"

    def setup(self) -> None:
        """Read the ratio.

        Raises:
            NetError: where it is not from 0 (all values pass) to below 1.
        """
        self.ratio = self.param.dropout_param.dropout_ratio
        # Caffe's builds for debugging refuse 0, its usual ones (NDEBUG) run it
        if not 0 <= self.ratio < 1:
            self.fail(f"dropout_ratio (={self.ratio:g}) must be 0 or more, and less than 1.")
        self.top_shapes = [self.bottom_shapes[0]]

    @property
    def random(self) -> bool:
        """Only in TRAIN, and where anything is dropped."""
        return self.phase == "TRAIN" and self.ratio > 0

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The bottom times a random mask in TRAIN, else the bottom."""
        values = bottoms[0]
        if not self.random:
            return [values]
        if rng is None:
            self.fail("draws random numbers in TRAIN and needs rng.")
        # comparing raw bits is cheaper than making uniform floats of them
        keep = jax.random.bits(rng, values.shape, jnp.uint32) >= jnp.uint32(round(self.ratio * (2**32 - 1)))
        return [jnp.where(keep, values * (1.0 / (1.0 - self.ratio)), jnp.zeros_like(values))]


__all__ = ["Dropout"]
