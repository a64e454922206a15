"""Reduction: sums, means, sums of squares or of absolute values over the trailing axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cosdask.nn.layer import Array, Layer, canonical_axis, register
from cosdask.nn.layers.elementwise import absolute
from cosdask.proto import caffe_pb2

_OPERATIONS: dict[int, Callable[[Array, tuple[int, ...]], Array]] = {
    caffe_pb2.ReductionParameter.SUM: lambda x, axes: x.sum(axis=axes),
    caffe_pb2.ReductionParameter.ASUM: lambda x, axes: absolute(x).sum(axis=axes),
    caffe_pb2.ReductionParameter.SUMSQ: lambda x, axes: (x * x).sum(axis=axes),
    caffe_pb2.ReductionParameter.MEAN: lambda x, axes: x.mean(axis=axes),
}


@register("Reduction")
class Reduction(Layer):
    """Reduce all axes from ``axis`` on (default 0: everything, to a scalar), times ``coeff``.

    The top's shape is the bottom's up to ``axis``. Operations: SUM, ASUM (absolute values), SUMSQ (squares), MEAN.
    """

    def setup(self) -> None:
        """Read axis, operation and coefficient."""
        param = self.param.reduction_param
        self.axis = canonical_axis(self, param.axis, len(self.bottom_shapes[0]))
        self.coeff = param.coeff
        self.operation = _OPERATIONS[param.operation]
        self.top_shapes = [self.bottom_shapes[0][: self.axis]]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The reduced values."""
        axes = tuple(range(self.axis, bottoms[0].ndim))
        return [self.coeff * self.operation(bottoms[0], axes)]


__all__ = ["Reduction"]
