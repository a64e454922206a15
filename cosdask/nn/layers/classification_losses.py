"""Losses of class scores beside softmax loss: hinge, infogain, multinomial logistic, sigmoid cross entropy.

Every loss is a scalar of shape (). A label that is no class gives NaN (Caffe reads beyond the row there).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from google.protobuf.message import DecodeError
from jax import lax

from cosdask.nn.layer import Array, Layer, canonical_axis, count, register
from cosdask.nn.layers.loss_terms import SMALLEST_PROBABILITY, clamped_log, class_ids, normalizer
from cosdask.proto import caffe_pb2
from cosdask.storage import read_bytes


class _RowLoss(Layer):
    """A loss of one row of scores and one label a sample."""

    n_bottoms = (2, 2)
    no_gradient = (1,)
    is_loss = True

    def setup(self) -> None:
        """One label a sample.

        Raises:
            NetError: where labels and samples do not match.
        """
        scores, label = self.bottom_shapes
        if len(scores) < 1 or count(label) != scores[0]:
            self.fail(f"needs one label a sample, but scores have shape {scores} and labels {label}.")
        self.top_shapes = [()]

    def rows(self, bottoms: Sequence[Array]) -> tuple[Array, Array]:
        """Scores (N, classes), and labels (N, 1) as class ids."""
        samples = bottoms[0].shape[0]
        return bottoms[0].reshape(samples, -1), class_ids(bottoms[1]).reshape(samples, 1)


@register("HingeLoss")
class HingeLoss(_RowLoss):
    """One-versus-all hinge loss, L1 or L2 (``hinge_loss_param.norm``).

    ``sum over samples and classes of max(0, 1 - s x)^p / N`` with s = 1 for the label's class, -1 for the others.
    Bottoms: scores (N, ...), labels (N).
    """

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The loss."""
        scores, label = self.rows(bottoms)
        classes = jnp.arange(scores.shape[1], dtype=jnp.int32)[None, :]
        violation = 1 + jnp.where(classes == label, -scores, scores)
        # not jnp.maximum: it lets half of the gradient through where the violation is exactly 0
        violation = jnp.where(violation > 0, violation, jnp.zeros_like(violation))
        squared = self.param.hinge_loss_param.norm == caffe_pb2.HingeLossParameter.L2
        loss = (violation * violation if squared else violation).sum() / scores.shape[0]
        known = ((label >= 0) & (label < scores.shape[1])).all()
        return [jnp.where(known, loss, jnp.full_like(loss, jnp.nan))]


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(_RowLoss):
    """``-sum over samples of log(max(p[label], 1e-20)) / N`` for given probabilities.

    Bottoms: probabilities (N, ...), labels (N).
    """

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The loss."""
        probabilities, label = self.rows(bottoms)
        chosen = jnp.take_along_axis(probabilities, _no_negative(label, probabilities.shape[1]), axis=1, mode="fill")
        return [-clamped_log(chosen).sum() / probabilities.shape[0]]


def _no_negative(label: Array, classes: int) -> Array:
    """Labels with negative ones moved behind the last class, so that they do not count from the end."""
    return jnp.where(label < 0, classes, label)


@register("InfogainLoss")
class InfogainLoss(Layer):
    """Softmax loss weighted by an information gain matrix H.

    ``-sum over labels and classes of H[label, class] log(max(p[class], 1e-20)) / normalizer`` with p the softmax of
    the first bottom along ``axis`` (default 1). H is the third bottom, or a binary BlobProto in
    ``infogain_loss_param.source``. ``loss_param`` gives ``ignore_label`` and ``normalization`` (default VALID).
    Bottoms: scores, class ids, [H of classes x classes values]. Tops: loss, [p].
    """

    n_bottoms = (2, 3)
    n_tops = (1, 2)
    no_gradient = (1, 2)
    is_loss = True

    def setup(self) -> None:
        """Check the labels and the matrix.

        Raises:
            NetError: where they do not fit the scores, or H is given nowhere.
            StorageError: where the source cannot be read.
        """
        scores, label = self.bottom_shapes[:2]
        self.axis = canonical_axis(self, self.param.infogain_loss_param.axis, len(scores))
        self.outer, self.inner = count(scores[: self.axis]), count(scores[self.axis + 1 :])
        if count(label) != self.outer * self.inner:
            self.fail(
                f"needs {self.outer * self.inner} labels, one for each place beside axis {self.axis} of the scores "
                f"{scores}, but labels have shape {label}."
            )
        loss_param = self.param.loss_param
        if loss_param.HasField("normalize"):
            self.fail('loss_param.normalize is not known here; use "normalization" (VALID, FULL, BATCH_SIZE, NONE).')
        self.mode = loss_param.normalization
        self.ignored = loss_param.ignore_label if loss_param.HasField("ignore_label") else None
        self.gain = None if len(self.bottom_shapes) == 3 else self._read_gain(scores[self.axis])
        if self.gain is None:
            self._check_gain(count(self.bottom_shapes[2]), scores[self.axis], "the third bottom")
        self.top_shapes = [(), scores][: len(self.param.top)]

    def _read_gain(self, classes: int) -> np.ndarray:
        source = self.param.infogain_loss_param.source
        if not source:
            self.fail("needs the information gain matrix: a third bottom, or infogain_loss_param.source.")
        blob = caffe_pb2.BlobProto()
        try:
            # a float takes 4 bytes (doubles 8); the rest of the message is small
            blob.ParseFromString(read_bytes(source, limit=8 * classes * classes + 65536))
        except DecodeError as error:
            self.fail(f"infogain_loss_param.source {source} is no binary BlobProto: {error}.")
        values = np.array(blob.data or blob.double_data, np.float32)
        self._check_gain(values.size, classes, source)
        return values.reshape(classes, classes)

    def _check_gain(self, values: int, classes: int, where: str) -> None:
        if values != classes * classes:
            self.fail(f"{where} must be the {classes} x {classes} information gain matrix, but has {values} value(s).")

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The loss, and the probabilities where a second top asks for them."""
        scores = bottoms[0]
        classes = scores.shape[self.axis]
        label = class_ids(bottoms[1]).reshape(-1)
        valid = jnp.ones_like(label, bool) if self.ignored is None else label != self.ignored
        gain = jnp.asarray(self.gain, scores.dtype) if self.gain is not None else bottoms[2].reshape(classes, classes)
        # Caffe sets the softmax's axis to this layer's, whatever softmax_param says
        log_p = jax.nn.log_softmax(scores, axis=self.axis)
        rows = jnp.moveaxis(log_p.reshape(self.outer, classes, self.inner), 1, 2).reshape(-1, classes)
        # an ignored label takes row 0: a NaN would reach the gradient though its term is left out
        row = _no_negative(jnp.where(valid, label, 0), classes)
        row_gain = jnp.take(lax.stop_gradient(gain), row, axis=0, mode="fill")
        # the value is clamped, the gradient is not
        clamped = rows + lax.stop_gradient(jnp.maximum(rows, jnp.log(jnp.float32(SMALLEST_PROBABILITY))) - rows)
        terms = (row_gain * clamped).sum(axis=1)
        total = jnp.where(valid, terms, jnp.zeros_like(terms)).sum()
        loss = -total / normalizer(self.mode, self.outer, self.inner, valid.sum()).astype(scores.dtype)
        return [loss, jnp.exp(log_p)][: len(self.top_shapes)]


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Layer):
    """``-sum of t log(sigmoid(x)) + (1 - t) log(1 - sigmoid(x))`` over a normalizer (default: the batch size).

    Bottoms: scores x (N, ...) and targets t in [0, 1], as many. ``loss_param``: targets whose whole part equals
    ``ignore_label`` are left out; ``normalization`` counts them with VALID; the old ``normalize: true`` means VALID.
    """

    n_bottoms = (2, 2)
    no_gradient = (1,)
    is_loss = True

    def setup(self) -> None:
        """Read the normalization.

        Raises:
            NetError: where there are not as many targets as scores.
        """
        scores, targets = self.bottom_shapes
        if not scores or count(scores) != count(targets):
            self.fail(f"needs as many targets as scores, but they have shapes {targets} and {scores}.")
        param, modes = self.param.loss_param, caffe_pb2.LossParameter
        self.mode: int = modes.BATCH_SIZE
        if param.HasField("normalization"):
            self.mode = param.normalization
        elif param.HasField("normalize") and param.normalize:
            self.mode = modes.VALID
        self.ignored = param.ignore_label if param.HasField("ignore_label") else None
        self.top_shapes = [()]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The loss."""
        scores = bottoms[0]
        targets = lax.stop_gradient(bottoms[1]).reshape(scores.shape)
        terms = jax.nn.softplus(scores) - scores * targets
        valid = jnp.ones_like(terms, bool) if self.ignored is None else targets.astype(jnp.int32) != self.ignored
        total = jnp.where(valid, terms, jnp.zeros_like(terms)).sum()
        divisor = normalizer(self.mode, scores.shape[0], count(scores.shape[1:]), valid.sum())
        return [total / divisor.astype(scores.dtype)]


__all__ = ["HingeLoss", "InfogainLoss", "MultinomialLogisticLoss", "SigmoidCrossEntropyLoss"]
