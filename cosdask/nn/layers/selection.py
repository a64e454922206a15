"""Layers that pick by value or by index: ArgMax, BatchReindex, Filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from cosdask.errors import NetError
from cosdask.nn.layer import Array, Layer, canonical_axis, count, register


@register("ArgMax")
class ArgMax(Layer):
    """The ``top_k`` largest values' indices, largest first; of equal values the one with the higher index comes first.

    With ``axis`` the top has the bottom's shape with ``top_k`` on that axis, and holds indices, or values with
    ``out_max_val``. Without ``axis`` each row's values are taken together: the top is (N, 1, top_k), or
    (N, 2, top_k) with the indices in [:, 0] and the values in [:, 1]; ones are added for bottoms of more axes.
    It has no gradient.
    """

    no_gradient = (0,)

    def setup(self) -> None:
        """Read axis and top_k.

        Raises:
            NetError: where top_k is more than there are values to choose from.
        """
        shape, param = self.bottom_shapes[0], self.param.argmax_param
        self.values, self.top_k = param.out_max_val, param.top_k
        self.axis = canonical_axis(self, param.axis, len(shape)) if param.HasField("axis") else None
        size = count(shape[1:]) if self.axis is None else shape[self.axis]
        if not 1 <= self.top_k <= size:
            self.fail(f"top_k (={self.top_k}) must be from 1 to {size}, the number of values to choose from.")
        if self.axis is None:
            top = [shape[0], 2 if self.values else 1, self.top_k] + [1] * (len(shape) - 3)
        else:
            top = list(shape)
            top[self.axis] = self.top_k
        self.top_shapes = [tuple(top)]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """Indices (as numbers of the bottom's dtype), values, or both."""
        x = lax.stop_gradient(bottoms[0])
        if self.axis is not None:
            values, indices = self._largest(jnp.moveaxis(x, self.axis, -1))
            return [jnp.moveaxis(values if self.values else indices, -1, self.axis)]
        values, indices = self._largest(x.reshape(x.shape[0], -1))
        top = jnp.stack([indices, values], axis=1) if self.values else indices
        return [top.reshape(self.top_shapes[0])]

    def _largest(self, x: Array) -> tuple[Array, Array]:
        # lax.top_k puts the lower index first among equals; Caffe sorts (value, index) pairs downward
        values, reversed_indices = lax.top_k(jnp.flip(x, axis=-1), self.top_k)
        return values, (x.shape[-1] - 1 - reversed_indices).astype(x.dtype)


def checked_rows(indices: Array, rows: int) -> Array:
    """Indices (numbers of any dtype) as int32; those outside of [0, rows) become ``rows``.

    Used with ``jnp.take(..., mode="fill")``, which gives NaN for an index of ``rows``: a wrong index is seen in the
    result at once, where it would otherwise count from the end or be moved to the nearest row.
    """
    whole = lax.stop_gradient(indices).astype(jnp.int32)
    return jnp.where((whole >= 0) & (whole < rows), whole, rows)


@register("BatchReindex")
class BatchReindex(Layer):
    """Row ``i`` of the top is row ``index[i]`` of the first bottom; the second bottom is the index, shape (M,).

    Rows may be taken several times or never. An index outside of the batch gives a row of NaN.
    """

    arithmetic = "as_given"

    n_bottoms = (2, 2)
    no_gradient = (1,)

    def setup(self) -> None:
        """The top has as many rows as the index.

        Raises:
            NetError: where the index has not one axis.
        """
        shape, index = self.bottom_shapes
        if len(index) != 1:
            self.fail(f"needs a second bottom of one axis, the row indices, not shape {index}.")
        self.top_shapes = [index + shape[1:]]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """Take the rows."""
        x, index = bottoms
        return [jnp.take(x, checked_rows(index, x.shape[0]), axis=0, mode="fill")]


@register("Filter")
class Filter(Layer):
    """Keep the rows whose entry in the last bottom, the selector (N, 1, ...), is not zero.

    The other bottoms give one top each. How many rows the tops have depends on the data, which compiled code does not
    allow: the layer runs where arrays have known values (``Net.forward``), not under ``jax.jit`` and so not in
    training. :attr:`top_shapes` states the most rows it can give.
    """

    n_bottoms = (2, None)
    n_tops = (1, None)
    #: a net with such a layer is not compiled
    data_dependent_shapes: ClassVar[bool] = True

    def setup(self) -> None:
        """Check rows and tops.

        Raises:
            NetError: where the selector is no column, or rows or tops do not match.
        """
        *filtered, selector = self.bottom_shapes
        self.no_gradient = (len(filtered),)
        if count(selector[1:]) != 1 or not selector:
            self.fail(f"the last bottom selects rows: all its axes but the first must be 1, not shape {selector}.")
        if any(shape[:1] != selector[:1] for shape in filtered):
            self.fail(f"all bottoms need the selector's {selector[0]} rows, but the shapes are {self.bottom_shapes}.")
        if len(self.param.top) != len(filtered):
            self.fail(f"{len(filtered)} bottoms are filtered, so it needs as many tops, not {len(self.param.top)}.")
        self.top_shapes = filtered

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The kept rows of each bottom.

        Raises:
            NetError: inside of compiled code.
        """
        selector = lax.stop_gradient(bottoms[-1]).reshape(-1)
        try:
            (rows,) = jnp.nonzero(selector)
        except jax.errors.ConcretizationTypeError as error:
            raise NetError(
                f'layer "{self.name}" (Filter): the number of rows it gives depends on the data, so it cannot be part '
                "of a compiled function (jax.jit, training). Use it with Net.forward, or call Net.apply without jit.",
                layer=self.name,
            ) from error
        return [jnp.take(bottom, rows, axis=0) for bottom in bottoms[:-1]]


__all__ = ["ArgMax", "BatchReindex", "Filter", "checked_rows"]
