"""Parameter: a learned blob that is a top by itself."""

from __future__ import annotations

from collections.abc import Sequence

from cosdask.nn.layer import Array, Layer, Weight, register


@register("Parameter")
class Parameter(Layer):
    """Gives its weight, of the shape in ``parameter_param``, as its top. The weight starts at zero."""

    n_bottoms = (0, 0)

    def setup(self) -> None:
        """State the weight.

        Raises:
            NetError: where an axis has a size below 1.
        """
        shape = tuple(self.param.parameter_param.shape.dim)
        if any(size < 1 for size in shape):
            self.fail(f"parameter_param's shape {shape} needs sizes of 1 or more.")
        self.weights = [Weight(shape)]
        self.top_shapes = [shape]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The weight itself."""
        return [weights[0]]


__all__ = ["Parameter"]
