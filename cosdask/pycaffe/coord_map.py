"""``caffe.coord_map``: where a pixel of one blob lies in another, and the Crop layer that aligns two blobs.

Each layer that keeps pixels in their order maps a coordinate ``x`` of its bottom to ``a x + b`` of its top. A map is
``(axis, a, b)``: the first spatial axis, or None for layers that do not care, and a number or an array over the axes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from cosdask.errors import NetError
from cosdask.proto.net_spec import Function, Top, layers

Map = tuple[int | None, Any, Any]

#: layers whose top has each pixel where the bottom has it
# fmt: off
_PASSES = frozenset([
    "AbsVal", "BatchNorm", "Bias", "BNLL", "Clip", "Dropout", "Eltwise", "ELU", "Exp", "Log", "LRN", "MVN", "Power",
    "PReLU", "ReLU", "Scale", "Sigmoid", "Split", "Swish", "TanH", "Threshold",
])
# fmt: on


class UndefinedMapException(NetError):
    """A layer that does not keep pixels in their order, or blobs that have nothing in common."""


class AxisMismatchException(NetError):
    """Layers of one path whose spatial axes begin at different places."""


def conv_params(fn: Function) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Of a convolution, pooling or the like: first spatial axis, stride, extent of the kernel, and pad, by axis.

    Raises:
        NetError: for sizes given by ``kernel_h`` and the like, which this function does not read.
    """
    params = fn.params.get("pooling_param" if fn.type_name == "Pooling" else "convolution_param", fn.params)
    by_axis = [f"{name}_{axis}" for name in ("kernel", "stride", "pad") for axis in "hw"]
    stated = [name for name in by_axis if name in params]
    if stated or "kernel_size" not in params:
        raise NetError(
            f"coord_map reads kernel_size, stride and pad; {fn.type_name} states {stated or 'no kernel_size'}."
        )
    kernel, stride, pad, dilation = (
        np.array(params.get(name, default), ndmin=1)
        for name, default in (("kernel_size", 1), ("stride", 1), ("pad", 0), ("dilation", 1))
    )
    return params.get("axis", 1), stride, (kernel - 1) * dilation + 1, pad


def crop_params(fn: Function) -> tuple[int, np.ndarray]:
    """Of a Crop layer: its axis and offset."""
    params = fn.params.get("crop_param", fn.params)
    return params.get("axis", 2), np.array(params.get("offset", 0), ndmin=1)


def coord_map(fn: Function) -> Map:
    """The map of one layer.

    Raises:
        UndefinedMapException: for a layer that has none.

    Example:
        >>> from cosdask.proto.net_spec import layers as L
        >>> pool = L.Pooling(L.Input(), kernel_size=2, stride=2)
        >>> axis, a, b = coord_map(pool.fn)
        >>> axis, a.tolist(), b.tolist()
        (1, [0.5], [-0.25])
    """
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, kernel, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (kernel - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, kernel, pad = conv_params(fn)
        return axis, stride, (kernel - 1) / 2 - pad
    if fn.type_name in _PASSES:
        return None, 1, 0
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset
    raise UndefinedMapException(f"a layer of type {fn.type_name} does not map coordinates.")


def compose(base_map: Map, next_map: Map) -> Map:
    """The map that does ``next_map`` first and ``base_map`` then.

    Raises:
        AxisMismatchException: where their axes differ.
    """
    first, a1, b1 = base_map
    second, a2, b2 = next_map
    if first is not None and second is not None and first != second:
        raise AxisMismatchException(f"maps over axes from {first} and from {second} on cannot be put together.")
    return (second if first is None else first), a1 * a2, a1 * b2 + b1


def inverse(coord_map: Map) -> Map:
    """The map the other way."""
    axis, a, b = coord_map
    return axis, 1 / a, -b / a


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """The map from coordinates of one blob to those of another that has an ancestor in common with it.

    Raises:
        UndefinedMapException: where no path connects them.
        AxisMismatchException: where the axes of a path differ.
    """
    behind = dict(_ancestors(top_from))
    for top, mapping in _ancestors(top_to):
        if top in behind:
            return compose(mapping, inverse(behind[top]))
    raise UndefinedMapException("no path of layers that map coordinates connects the two blobs.")


def _ancestors(top: Top) -> Iterator[tuple[Top, Map]]:
    """The blobs that a blob comes from, nearest first, each with the map from its coordinates to the blob's."""
    start: Map = (None, 1, 0)
    seen = {top}
    waiting = deque([(top, start)])
    while waiting:
        here, mapping = waiting.popleft()
        yield here, mapping
        try:
            step = coord_map(here.fn)
        except UndefinedMapException:
            continue
        # a Crop layer's second bottom only says the size
        inputs = here.fn.inputs[:1] if here.fn.type_name == "Crop" else here.fn.inputs
        for bottom in inputs:
            if bottom not in seen:
                seen.add(bottom)
                waiting.append((bottom, compose(mapping, step)))


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer that cuts one blob so that its pixels lie where those of another do.

    Raises:
        NetError: where the two differ in scale, or the offset is negative or no whole number.
    """
    axis, a, b = coord_map_from_to(top_from, top_to)
    scale, shift = np.atleast_1d(np.asarray(a, float)), np.atleast_1d(np.asarray(b, float))
    if not np.allclose(scale, 1):
        raise NetError(f"crop: the blobs differ in scale by {scale.tolist()}; one must be resized first.")
    if (shift > 0).any() or not np.allclose(shift, np.round(shift)):
        raise NetError(f"crop: an offset of {(-shift).tolist()} pixels is asked for; it must be whole and 0 or more.")
    offset = [int(size) for size in -np.round(shift)]
    cropped: Top = layers.Crop(top_from, top_to, crop_param=dict(axis=(1 if axis is None else axis) + 1, offset=offset))
    return cropped


__all__ = [
    "AxisMismatchException",
    "UndefinedMapException",
    "compose",
    "conv_params",
    "coord_map",
    "coord_map_from_to",
    "crop",
    "crop_params",
    "inverse",
]
