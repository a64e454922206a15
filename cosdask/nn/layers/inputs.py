"""Layers whose tops come from outside of the net: from a data source, or from the caller.

They are registered so that their types are known; :class:`cosdask.Net` reads their shapes and feeds their tops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from cosdask.nn.layer import Array, Layer, register


class InputLayer(Layer):
    """Base of layers that compute nothing: their tops are fed."""

    is_input: ClassVar[bool] = True
    n_bottoms = (0, 0)
    n_tops = (1, None)

    def setup(self) -> None:
        """Nothing to set up: the shapes come with the data."""

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """Never part of a computation.

        Raises:
            NetError: always.
        """
        self.fail("is fed from outside and computes nothing; give its tops as inputs.")


@register("Input")
class Input(InputLayer):
    """Tops that the caller feeds; ``input_param.shape`` is given once for all tops, or once for each."""

    def setup(self) -> None:
        """Read the shapes.

        Raises:
            NetError: where the number of shapes is neither 0, nor 1, nor that of the tops.
        """
        shapes = [tuple(int(dim) for dim in shape.dim) for shape in self.param.input_param.shape]
        tops = len(self.param.top)
        if len(shapes) not in (0, 1, tops):
            self.fail(f"input_param.shape is given {len(shapes)} times for {tops} top(s); give it once, or once a top.")
        self.top_shapes = shapes * tops if len(shapes) == 1 else shapes


@register("CoSData")
class CoSData(InputLayer):
    """Columns of a DataFrame, a top a column."""


@register("Data")
class Data(InputLayer):
    """Images and labels from an LMDB or another source of ``Datum`` records."""


@register("HDF5Data")
class HDF5Data(InputLayer):
    """Datasets of HDF5 files, a top a dataset."""


@register("ImageData")
class ImageData(InputLayer):
    """Images and labels listed in a text file."""


@register("MemoryData")
class MemoryData(InputLayer):
    """Images and labels from memory; CaffeOnSpark's data layer."""


@register("WindowData")
class WindowData(InputLayer):
    """Windows of images listed in a text file."""


__all__ = ["CoSData", "Data", "HDF5Data", "ImageData", "Input", "InputLayer", "MemoryData", "WindowData"]
