"""The two losses that most nets train with: SoftmaxWithLoss and EuclideanLoss."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cosdask.nn.layer import Array, Layer, count, register
from cosdask.nn.layers.labeled import Labeled
from cosdask.nn.layers.loss_terms import normalizer
from cosdask.proto import caffe_pb2

#: Caffe takes no logarithm of a smaller probability
_LOG_SMALLEST = float(np.log(np.finfo(np.float32).tiny))


@jax.custom_vjp
def softmax_cross_entropy(scores: Array, labels: Array, valid: Array) -> Array:
    """Sum of ``-log(softmax(scores)[label])`` over the rows that count.

    A logarithm is at least that of the smallest normal float32, with the gradient unchanged, as in Caffe. A label
    that counts and is no class gives NaN.

    Args:
        scores: (M, classes).
        labels: int32 (M,).
        valid: bool (M,), which rows count.

    Returns:
        Scalar of the scores' dtype.

    Example:
        >>> two = jnp.zeros((1, 2))
        >>> print(f"{softmax_cross_entropy(two, jnp.array([1]), jnp.array([True])):.4f}")
        0.6931
    """
    return _cross_entropy_forward(scores, labels, valid)[0]


def _cross_entropy_forward(scores: Array, labels: Array, valid: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    logarithms = jax.nn.log_softmax(scores, axis=1)
    own = jnp.where(_one_hot(labels, scores), logarithms, jnp.zeros_like(logarithms)).sum(axis=1)
    known = (labels >= 0) & (labels < scores.shape[1])
    own = jnp.where(known, jnp.maximum(own, _LOG_SMALLEST), jnp.full_like(own, jnp.nan))
    loss = -jnp.where(valid, own, jnp.zeros_like(own)).sum()
    return loss, (logarithms, labels, valid)


def _cross_entropy_backward(saved: tuple[Array, Array, Array], gradient: Array) -> tuple[Array, None, None]:
    logarithms, labels, valid = saved
    difference = jnp.exp(logarithms) - _one_hot(labels, logarithms).astype(logarithms.dtype)
    return jnp.where(valid[:, None], difference * gradient, jnp.zeros_like(difference)), None, None


softmax_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def _one_hot(labels: Array, like: Array) -> Array:
    return labels[:, None] == jnp.arange(like.shape[1], dtype=labels.dtype)[None, :]


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(Labeled):
    """Cross entropy of the softmax of the scores over ``softmax_param.axis`` (default 1).

    ``loss_param`` gives the normalization (default: the number of labels that are not ``ignore_label``). A second top
    gives the probabilities; no gradient flows through it.
    """

    n_tops = (1, 2)
    no_gradient = (1,)
    is_loss = True

    def setup(self) -> None:
        """Read the fields.

        Raises:
            NetError: where there are not as many labels as score vectors.
        """
        param, modes = self.param.loss_param, caffe_pb2.LossParameter
        scores, labels = self.bottom_shapes
        if scores[:1] != labels[:1]:
            self.fail(f"scores {scores} and labels {labels} must have the same number of rows.")
        self.set_axis(self.param.softmax_param.axis)
        self.ignored = param.ignore_label if param.HasField("ignore_label") else None
        self.normalization: int = param.normalization
        if not param.HasField("normalization") and param.HasField("normalize"):  # the field's old form
            self.normalization = modes.VALID if param.normalize else modes.BATCH_SIZE
        self.top_shapes = [(), scores][: len(self.param.top)]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The loss, and where asked for the probabilities."""
        scores, labels, valid = self.rows(bottoms[0], bottoms[1], self.ignored)
        divisor = normalizer(self.normalization, self.outer, self.inner, valid.sum())
        tops = [softmax_cross_entropy(scores, labels, valid) / divisor.astype(scores.dtype)]
        if len(self.param.top) > 1:
            tops.append(self.from_rows(jax.nn.softmax(lax.stop_gradient(scores), axis=1)))
        return tops


@register("EuclideanLoss")
class EuclideanLoss(Layer):
    """``sum((a - b) ** 2) / (2 * rows)``; the gradient flows to both bottoms."""

    n_bottoms = (2, 2)
    is_loss = True

    def setup(self) -> None:
        """Check the shapes.

        Raises:
            NetError: where the bottoms differ in rows or in values a row.
        """
        first, second = self.bottom_shapes
        if not first or first[:1] != second[:1] or count(first) != count(second):
            self.fail(f"its bottoms, of shapes {first} and {second}, must have equal rows and values a row.")
        self.top_shapes = [()]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The loss."""
        first, second = bottoms
        difference = first.reshape(-1) - second.reshape(-1)
        return [jnp.sum(difference * difference) / (2 * self.bottom_shapes[0][0])]


__all__ = ["EuclideanLoss", "SoftmaxWithLoss", "softmax_cross_entropy"]
