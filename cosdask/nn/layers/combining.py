"""Layers that join, fan out or reshape whole blobs: Concat, Eltwise, Flatten, Silence, Split."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp

from cosdask.nn.layer import Array, Layer, canonical_axis, count, register
from cosdask.nn.layers.ops import use_layout
from cosdask.proto import caffe_pb2


@register("Concat")
class Concat(Layer):
    """Join blobs along ``axis`` (default 1); ``concat_dim`` is its old name."""

    arithmetic = "as_given"

    n_bottoms = (1, None)

    def setup(self) -> None:
        """Work out the axis and the top's shape.

        Raises:
            NetError: where axis and concat_dim are both given, or shapes differ on another axis.
        """
        param, first = self.param.concat_param, self.bottom_shapes[0]
        if param.HasField("axis") and param.HasField("concat_dim"):
            self.fail("give axis or concat_dim (its old name), not both.")
        stated = param.concat_dim if param.HasField("concat_dim") else param.axis
        axis = canonical_axis(self, stated, len(first))
        for position, shape in enumerate(self.bottom_shapes):
            same = len(shape) == len(first) and all(
                a == b for i, (a, b) in enumerate(zip(first, shape, strict=True)) if i != axis
            )
            if not same:
                self.fail(f"bottom {position} of shape {shape} cannot be joined to {first} along axis {axis}.")
        joined = sum(shape[axis] for shape in self.bottom_shapes)
        self.top_shapes = [(*first[:axis], joined, *first[axis + 1 :])]
        if len(first) == 4:
            use_layout(self, "last")
            axis = (0, 3, 1, 2)[axis]
        self.axis = axis

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The bottoms, one behind the other."""
        return [jnp.concatenate(list(bottoms), axis=self.axis)]


@register("Eltwise")
class Eltwise(Layer):
    """Sum (with ``coeff``), product or maximum of equally shaped blobs.

    Where the first two bottoms are equal, their maximum's gradient flows to the second one; any later bottom must be
    greater than all before it: Caffe's rule. ``stable_prod_grad`` makes no difference: the gradient of a product never
    divides.
    """

    arithmetic = "as_given"

    layout = "any"
    n_bottoms = (2, None)

    def setup(self) -> None:
        """Read operation and coefficients.

        Raises:
            NetError: where shapes differ, or coefficients do not fit.
        """
        param, first = self.param.eltwise_param, self.bottom_shapes[0]
        if len(param.coeff) not in (0, len(self.bottom_shapes)):
            self.fail(f"coeff is given {len(param.coeff)} times for {len(self.bottom_shapes)} bottoms; give each one.")
        if param.coeff and param.operation != caffe_pb2.EltwiseParameter.SUM:
            self.fail("coeff is for operation SUM only.")
        for position, shape in enumerate(self.bottom_shapes):
            if shape != first:
                self.fail(f"bottom {position} has shape {shape}, but bottom 0 has {first}; all must be equal.")
        self.top_shapes = [first]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """One blob of the bottoms' shape."""
        param = self.param.eltwise_param
        if param.operation == caffe_pb2.EltwiseParameter.PROD:
            return [math.prod(bottoms[1:], start=bottoms[0])]
        if param.operation == caffe_pb2.EltwiseParameter.MAX:
            top = jnp.where(bottoms[0] > bottoms[1], bottoms[0], bottoms[1])
            for other in bottoms[2:]:
                top = jnp.where(other > top, other, top)
            return [top]
        coefficients = list(param.coeff) or [1.0] * len(bottoms)
        terms = [b if c == 1 else b * c for b, c in zip(bottoms, coefficients, strict=True)]
        return [sum(terms[1:], start=terms[0])]


@register("Flatten")
class Flatten(Layer):
    """Make the axes from ``axis`` (default 1) to ``end_axis`` (default the last) one."""

    arithmetic = "as_given"

    def setup(self) -> None:
        """Work out the top's shape.

        Raises:
            NetError: where an axis is outside of the bottom, or end_axis lies before axis.
        """
        param, shape = self.param.flatten_param, self.bottom_shapes[0]
        start = canonical_axis(self, param.axis, len(shape))
        end = canonical_axis(self, param.end_axis, len(shape), "end_axis")
        if end < start - 1:
            self.fail(f"end_axis (={param.end_axis}) must not lie before axis (={param.axis}).")
        self.top_shapes = [(*shape[:start], count(shape[start : end + 1]), *shape[end + 1 :])]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The same values in fewer axes."""
        return [bottoms[0].reshape(self.top_shapes[0])]


@register("Silence")
class Silence(Layer):
    """Reads blobs so that they do not count as outputs of the net; makes nothing."""

    arithmetic = "as_given"

    layout = "any"
    n_bottoms = (1, None)
    n_tops = (0, 0)

    def setup(self) -> None:
        """Nothing to set up."""

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """No tops."""
        return []


@register("Split")
class Split(Layer):
    """The bottom under several names; their gradients are summed."""

    arithmetic = "as_given"

    layout = "any"
    n_tops = (1, None)

    def setup(self) -> None:
        """Every top has the bottom's shape."""
        self.top_shapes = [self.bottom_shapes[0]] * len(self.param.top)

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The bottom, once for each top."""
        return [bottoms[0]] * len(self.param.top)


__all__ = ["Concat", "Eltwise", "Flatten", "Silence", "Split"]
