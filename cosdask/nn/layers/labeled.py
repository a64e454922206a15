"""What layers share that compare scores of classes with labels."""

from __future__ import annotations

import jax.numpy as jnp

from cosdask.nn.layer import Array, Layer, canonical_axis, count
from cosdask.nn.layers.loss_terms import class_ids
from cosdask.nn.layers.ops import use_layout


class Labeled(Layer):
    """A layer with scores as first bottom and labels as second.

    The scores' classes lie along one axis; there is a label for each place along all other axes, in their order.
    """

    n_bottoms = (2, 2)

    def set_axis(self, axis: int) -> None:
        """Find the classes' axis, and run channels-last where that saves a transpose.

        Raises:
            NetError: where the axis is outside of the scores, or there are not as many labels as score vectors.
        """
        shape, labels = self.bottom_shapes
        self.axis = canonical_axis(self, axis, len(shape))
        self.classes = shape[self.axis]
        self.outer, self.inner = count(shape[: self.axis]), count(shape[self.axis + 1 :])
        if count(labels) != self.outer * self.inner:
            self.fail(
                f"scores of shape {shape} with classes on axis {self.axis} need {self.outer * self.inner} labels, "
                f"but the second bottom, of shape {labels}, has {count(labels)}."
            )
        # a label blob of one channel keeps its order of values when it is made channels-last
        if len(shape) == 4 and self.axis == 1 and (len(labels) != 4 or labels[1] == 1):
            use_layout(self, "last")

    def rows(self, scores: Array, label: Array, ignored: int | None) -> tuple[Array, Array, Array]:
        """Scores as (M, classes), labels as int32 (M,), and which labels count as bool (M,)."""
        if self.layout == "caffe":
            scores = jnp.moveaxis(scores.reshape(self.outer, self.classes, self.inner), 1, 2)
        labels = class_ids(label).reshape(-1)
        valid = jnp.ones(labels.shape, bool) if ignored is None else labels != ignored
        return scores.reshape(-1, self.classes), labels, valid

    def from_rows(self, rows: Array) -> Array:
        """Values of (M, classes) in the scores' own shape and layout."""
        shape = self.bottom_shapes[0]
        if self.layout == "last":
            return rows.reshape(shape[0], shape[2], shape[3], shape[1])
        return jnp.moveaxis(rows.reshape(self.outer, self.inner, self.classes), 2, 1).reshape(shape)


__all__ = ["Labeled"]
