"""Im2col: the values under each position of a convolution's kernel, as channels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from cosdask.nn.layer import Array, Layer, canonical_axis, count, register


@register("Im2col")
class Im2col(Layer):
    """Lay out, as channels, what a convolution's kernel sees at each position.

    Bottom (..., C, spatial...), top (..., C * kernel size, positions...), the kernel's offsets running fastest within a
    channel. Takes ``convolution_param``'s kernel, stride, pad, dilation and ``axis`` (the channel axis, default 1).
    """

    arithmetic = "as_given"

    def setup(self) -> None:
        """Read the kernel.

        Raises:
            NetError: where the kernel is missing or larger than the padded bottom.
        """
        shape, param = self.bottom_shapes[0], self.param.convolution_param
        self.axis = canonical_axis(self, param.axis, len(shape))
        sizes = shape[self.axis + 1 :]
        if not sizes:
            self.fail(f"needs axes behind its channel axis {self.axis}, but the bottom's shape is {shape}.")
        self.kernel = self._per_axis("kernel", "kernel_size", len(sizes), None, least=1)
        self.stride = self._per_axis("stride", "stride", len(sizes), 1, least=1)
        self.pad = self._per_axis("pad", "pad", len(sizes), 0, least=0)
        self.dilation = self._per_axis("dilation", "dilation", len(sizes), 1, least=1)
        geometry = zip(sizes, self.pad, self.kernel, self.dilation, self.stride, strict=True)
        self.positions = tuple(
            (size + 2 * pad - (dilation * (kernel - 1) + 1)) // stride + 1
            for size, pad, kernel, dilation, stride in geometry
        )
        if any(positions < 1 for positions in self.positions):
            self.fail(f"kernel {self.kernel} with dilation {self.dilation} is larger than the padded bottom {sizes}.")
        self.top_shapes = [(*shape[: self.axis], shape[self.axis] * count(self.kernel), *self.positions)]

    def _per_axis(self, stem: str, field: str, axes: int, default: int | None, least: int) -> tuple[int, ...]:
        """A field given once, once an axis, or as ``<stem>_h`` and ``<stem>_w``."""
        param = self.param.convolution_param
        given = tuple(getattr(param, field))
        if stem != "dilation" and (param.HasField(f"{stem}_h") or param.HasField(f"{stem}_w")):
            if given or axes != 2:
                self.fail(f"{stem}_h and {stem}_w are for two axes and cannot be mixed with {field}.")
            given = (getattr(param, f"{stem}_h"), getattr(param, f"{stem}_w"))
        if not given and default is None:
            self.fail(f"convolution_param needs {field}, or {stem}_h and {stem}_w.")
        if len(given) not in (0, 1, axes):
            self.fail(f"{field} is given {len(given)} times; give it once, or once for each of the {axes} axes.")
        values = given if len(given) == axes else (given or (default or 0,)) * axes
        if min(values) < least:
            self.fail(f"{field} {values} must be {least} or more.")
        return values

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """One strided slice for each offset in the kernel, stacked behind the channel axis."""
        spread = [(0, 0)] * (self.axis + 1) + [(pad, pad) for pad in self.pad]
        padded = jnp.pad(bottoms[0], spread)
        lead = self.axis + 1
        slices = []
        for offsets in itertools.product(*(range(kernel) for kernel in self.kernel)):
            starts = [offset * dilation for offset, dilation in zip(offsets, self.dilation, strict=True)]
            ends = [
                start + stride * (positions - 1) + 1
                for start, stride, positions in zip(starts, self.stride, self.positions, strict=True)
            ]
            slices.append(
                lax.slice(
                    padded, (0,) * lead + tuple(starts), padded.shape[:lead] + tuple(ends), (1,) * lead + self.stride
                )
            )
        return [jnp.stack(slices, axis=lead).reshape(self.top_shapes[0])]


__all__ = ["Im2col"]
