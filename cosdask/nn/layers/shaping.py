"""Layers that move values about without changing them: Crop, Reshape, Slice, Tile."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import jax.numpy as jnp
from jax import lax

from cosdask.nn.layer import Array, Layer, Shape, canonical_axis, count, register
from cosdask.nn.layers.ops import use_layout

#: Caffe's axes (N, C, H, W) in the order of a channels-last blob
_LAST = (0, 2, 3, 1)


@register("Crop")
class Crop(Layer):
    """Cut the first bottom to the size of the second, from ``axis`` (default 2) on.

    ``offset`` is given once for all cropped axes, once for each of them, or not at all (0). The values of the second
    bottom are not read; no gradient flows to it.
    """

    arithmetic = "as_given"

    n_bottoms = (2, 2)
    no_gradient = (1,)

    def setup(self) -> None:
        """Work out where to cut.

        Raises:
            NetError: where the ranks differ, offsets do not match the axes, or the cut leaves the bottom.
        """
        shape, wanted = self.bottom_shapes
        param = self.param.crop_param
        start = canonical_axis(self, param.axis, len(shape))
        cropped = len(shape) - start
        if len(wanted) < len(shape):
            self.fail(f"the second bottom, of shape {wanted}, needs as many axes as the first, of shape {shape}.")
        if len(param.offset) not in (0, 1, cropped):
            self.fail(
                f"offset is given {len(param.offset)} times; give it once, or once for each of the "
                f"{cropped} axes from axis {start} on."
            )
        offsets = tuple(param.offset) if len(param.offset) == cropped else tuple(param.offset or (0,)) * cropped
        starts = (0,) * start + offsets
        self.top_shapes = [shape[:start] + wanted[start : len(shape)]]
        for axis, (first, size) in enumerate(zip(starts, self.top_shapes[0], strict=True)):
            if first + size > shape[axis]:
                self.fail(
                    f"offset {first} plus size {size} on axis {axis} is beyond the bottom's {shape[axis]}; "
                    "make the offset or the second bottom smaller."
                )
        if len(shape) == 4:
            use_layout(self, "last")
        self.window = [(first, first + size) for first, size in zip(starts, self.top_shapes[0], strict=True)]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """Cut the window out of the first bottom."""
        order = _LAST if self.layout == "last" else range(len(self.window))
        starts, ends = zip(*(self.window[axis] for axis in order), strict=True)
        return [lax.slice(bottoms[0], starts, ends)]


@register("Reshape")
class Reshape(Layer):
    """Give the values a new shape, in the same order.

    ``shape`` replaces ``num_axes`` axes (default: all) from ``axis`` on; a dim of 0 copies the bottom's, one dim of -1
    is worked out from the rest.
    """

    arithmetic = "as_given"

    def setup(self) -> None:
        """Work out the new shape.

        Raises:
            NetError: where axis or num_axes leave the bottom, or the number of values would change.
        """
        shape = self.bottom_shapes[0]
        start, end = self._replaced_axes(len(shape))
        dims = self._copied_dims(shape, start)
        before, after = shape[:start], shape[end:]
        known = count(before) * count(after) * count([dim for dim in dims if dim != -1])
        if -1 in dims:
            if known == 0 or count(shape) % known:
                self.fail(
                    f"cannot work out the dim of -1: the bottom's {count(shape)} values (shape {shape}) are no "
                    f"multiple of {known}, the product of the other dims."
                )
            dims[dims.index(-1)] = count(shape) // known
        top = before + tuple(dims) + after
        if count(top) != count(shape):
            self.fail(f"cannot reshape {shape} to {top}: {count(shape)} values do not fill {count(top)} places.")
        self.top_shapes = [top]

    def _replaced_axes(self, rank: int) -> tuple[int, int]:
        param = self.param.reshape_param
        # axis may also point behind the last axis, hence one more than a canonical axis
        start = canonical_axis(self, param.axis, rank + 1)
        if param.num_axes < -1:
            self.fail(f"num_axes (={param.num_axes}) must be 0 or more, or -1 for all axes from axis on.")
        end = rank if param.num_axes == -1 else start + param.num_axes
        if end > rank:
            self.fail(f"axis (={start}) plus num_axes (={param.num_axes}) is beyond the bottom's {rank} axes.")
        return start, end

    def _copied_dims(self, shape: Shape, start: int) -> list[int]:
        """The dims as given, each 0 replaced by the bottom's."""
        dims = list(self.param.reshape_param.shape.dim)
        if dims.count(-1) > 1:
            self.fail("only one dim of shape may be -1.")
        for position, dim in enumerate(dims):
            if dim < -1:
                self.fail(f"dim {dim} of shape must be positive, 0 (copy) or -1 (work it out).")
            if dim == 0:
                if start + position >= len(shape):
                    self.fail(f"a dim of 0 copies axis {start + position}, but the bottom's shape is {shape}.")
                dims[position] = shape[start + position]
        return dims

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The same values in the new shape."""
        return [bottoms[0].reshape(self.top_shapes[0])]


@register("Slice")
class Slice(Layer):
    """Cut the bottom along ``axis`` (default 1) into one piece for each top.

    The pieces are equal, or end before each ``slice_point``. ``slice_dim`` is the old name of ``axis``.
    """

    arithmetic = "as_given"

    n_tops = (1, None)

    def setup(self) -> None:
        """Work out the cuts.

        Raises:
            NetError: where the cuts do not fit the tops or the axis.
        """
        shape = self.bottom_shapes[0]
        param = self.param.slice_param
        if param.HasField("axis") and param.HasField("slice_dim"):
            self.fail("give axis or slice_dim (its old name), not both.")
        axis = param.slice_dim if param.HasField("slice_dim") else param.axis
        self.axis = canonical_axis(self, axis, len(shape))
        self.cuts = self._cuts(shape[self.axis])
        self.top_shapes = [
            (*shape[: self.axis], end - start, *shape[self.axis + 1 :]) for start, end in pairwise(self.cuts)
        ]
        if len(shape) == 4:
            use_layout(self, "last")
            self.axis = _LAST.index(self.axis)

    def _cuts(self, size: int) -> list[int]:
        points, tops = list(self.param.slice_param.slice_point), len(self.param.top)
        if not points:
            if size % tops:
                self.fail(f"axis {self.axis} of size {size} cannot be cut into {tops} equal tops; give slice_point.")
            return [size // tops * top for top in range(tops + 1)]
        if len(points) != tops - 1:
            self.fail(f"{tops} tops need {tops - 1} slice_point(s), but {len(points)} are given.")
        cuts = [0, *points, size]
        if any(end <= start for start, end in pairwise(cuts)):
            self.fail(f"slice_point {points} must rise and lie inside of axis {self.axis} of size {size}.")
        return cuts

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The pieces, in order."""
        return [lax.slice_in_dim(bottoms[0], start, end, axis=self.axis) for start, end in pairwise(self.cuts)]


@register("Tile")
class Tile(Layer):
    """Repeat the bottom ``tiles`` times along ``axis`` (default 1): ``a b`` becomes ``a b a b``."""

    arithmetic = "as_given"

    def setup(self) -> None:
        """Read axis and tiles.

        Raises:
            NetError: where tiles is not positive.
        """
        shape = self.bottom_shapes[0]
        self.axis = canonical_axis(self, self.param.tile_param.axis, len(shape))
        self.tiles = self.param.tile_param.tiles
        if self.tiles < 1:
            self.fail(f"tiles (={self.tiles}) must be 1 or more.")
        self.top_shapes = [(*shape[: self.axis], shape[self.axis] * self.tiles, *shape[self.axis + 1 :])]
        if len(shape) == 4:
            use_layout(self, "last")
            self.axis = _LAST.index(self.axis)

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The copies, joined."""
        return [jnp.concatenate([bottoms[0]] * self.tiles, axis=self.axis)]


__all__ = ["Crop", "Reshape", "Slice", "Tile"]
