"""Pooling: maximum, average and stochastic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cosdask.nn.layer import Array, Layer, register
from cosdask.nn.layers.ops import isolated, use_layout
from cosdask.proto import caffe_pb2

Pair = tuple[int, int]

#: windows of at most this many places are taken apart place by place, which XLA runs faster than a window reduction
_MOST_PLACES = 49


@dataclass(frozen=True)
class Windows:
    """Where the windows of a pooling lie; every field is (height, width).

    Args:
        size: of the bottom.
        kernel: size of a window.
        stride: step between windows.
        pad: places before the bottom's first one.
        out: number of windows.
    """

    size: Pair
    kernel: Pair
    stride: Pair
    pad: Pair
    out: Pair

    @property
    def whole(self) -> bool:
        """Whether the one window is the whole bottom."""
        return self.kernel == self.size and self.pad == (0, 0) and self.out == (1, 1)

    @property
    def places(self) -> int:
        """Number of places in a window."""
        return self.kernel[0] * self.kernel[1]

    @property
    def reach(self) -> Pair:
        """Size of the padded bottom from the first window's start to the last one's end."""
        (a, b) = ((o - 1) * s + k for o, s, k in zip(self.out, self.stride, self.kernel, strict=True))
        return a, b

    @property
    def pads(self) -> tuple[Pair, Pair]:
        """(before, after) that make room for all windows; windows may still end before the bottom does."""
        (a, b) = ((p, max(0, r - n - p)) for p, r, n in zip(self.pad, self.reach, self.size, strict=True))
        return a, b

    def divisors(self) -> np.ndarray:
        """Places of each window that lie inside of the padded bottom (at least 1), float32 of shape ``out``.

        Caffe divides by these, so padding counts, but not what lies beyond it.
        """
        lines = []
        for n, k, s, p, o in zip(self.size, self.kernel, self.stride, self.pad, self.out, strict=True):
            start = np.arange(o) * s - p
            lines.append(np.maximum(np.minimum(start + k, n + p) - start, 1))
        return np.outer(*lines).astype(np.float32)


def place_windows(size: Pair, kernel: Pair, stride: Pair, pad: Pair, floor: bool = False) -> Windows:
    """Caffe's rule for the number of windows.

    The number is rounded up (down where ``floor``); with padding on any axis, a last window that would start beyond the
    bottom is left out.

    Example:
        >>> place_windows((32, 32), (3, 3), (2, 2), (0, 0)).out
        (16, 16)
    """
    out = []
    for n, k, s, p in zip(size, kernel, stride, pad, strict=True):
        room = n + 2 * p - k
        count = (room // s if floor else -(-room // s)) + 1
        if any(pad) and (count - 1) * s >= n + p:
            count -= 1
        out.append(count)
    return Windows(size, kernel, stride, pad, (out[0], out[1]))


def _padded(values: Array, windows: Windows, fill: float) -> Array:
    pads = ((0, 0, 0), *((before, after, 0) for before, after in windows.pads), (0, 0, 0))
    return lax.pad(values, jnp.asarray(fill, values.dtype), pads)


def _slices(padded: Array, windows: Windows) -> list[Array]:
    """The value at each place of all windows, place by place in reading order: arrays of (N, H', W', C)."""
    (rows, columns), (down, right), (high, wide) = windows.kernel, windows.stride, windows.out
    return [
        lax.slice(
            padded,
            (0, row, column, 0),
            (padded.shape[0], row + (high - 1) * down + 1, column + (wide - 1) * right + 1, padded.shape[3]),
            (1, down, right, 1),
        )
        for row in range(rows)
        for column in range(columns)
    ]


def _spread(gradient: Array, windows: Windows, places: Array | None = None) -> Array:
    """What windows give back to the bottom's places: the transpose of picking a place of each, or of their sums.

    A place of the bottom lies in ``ceil(kernel / stride)`` windows at most on an axis. So the bottom is laid out as
    (block of a stride's size, place in the block), where each place sums over those few windows; the order is Caffe's.

    Args:
        gradient: of each window, (N, H', W', C).
        windows: where they lie.
        places: int8, the number of the one place of each window that gets its gradient; all of them where None.

    Returns:
        (N, H, W, C).
    """
    shared = [-(-k // s) for k, s in zip(windows.kernel, windows.stride, strict=True)]
    blocks = [-(-(p + n) // s) for p, n, s in zip(windows.pad, windows.size, windows.stride, strict=True)]
    around = [(shared[i] - 1, blocks[i] - windows.out[i], 0) for i in (0, 1)]
    config = ((0, 0, 0), *around, (0, 0, 0))
    number, channels = gradient.shape[0], gradient.shape[3]
    whole = (number, blocks[0], windows.stride[0], blocks[1], windows.stride[1], channels)

    def shifted(values: Array, back: Pair) -> Array:
        """Of each block the value of the window that starts so many blocks before it."""
        start = (0, shared[0] - 1 - back[0], shared[1] - 1 - back[1], 0)
        end = (number, start[1] + blocks[0], start[2] + blocks[1], channels)
        return jnp.broadcast_to(lax.slice(values, start, end)[:, :, None, :, None, :], whole)

    gradient = lax.pad(gradient, jnp.zeros((), gradient.dtype), config)
    zero = jnp.zeros((), gradient.dtype)
    places = None if places is None else lax.pad(places, np.int8(0), config)
    terms = []
    for back in np.ndindex(*shared):
        back = (shared[0] - 1 - back[0], shared[1] - 1 - back[1])
        codes = _places_in_block(windows, back)
        term = shifted(gradient, back)
        if places is not None:
            term = jnp.where(shifted(places, back) == jnp.broadcast_to(codes, whole), term, zero)
        elif (codes < 0).any():
            term = jnp.where(jnp.broadcast_to(codes >= 0, whole), term, zero)
        terms.append(term)
    spread = reduce(add, terms).reshape(number, whole[1] * whole[2], whole[3] * whole[4], channels)
    (top, left), (high, wide) = windows.pad, windows.size
    return spread[:, top : top + high, left : left + wide]


def _places_in_block(windows: Windows, back: Pair) -> np.ndarray:
    """Which place of a window each place of a block is, -1 for those beyond it: int8 that broadcasts to blocks.

    Args:
        windows: where they lie.
        back: how many blocks before the block the window starts.
    """
    rows, columns = (np.arange(s) + b * s for s, b in zip(windows.stride, back, strict=True))
    inside = (rows < windows.kernel[0])[:, None] & (columns < windows.kernel[1])[None, :]
    numbers = np.where(inside, rows[:, None] * windows.kernel[1] + columns[None, :], -1)
    return numbers.astype(np.int8)[None, None, :, None, :, None]


def _lowest(dtype: np.dtype) -> float:
    return float(jnp.finfo(dtype).min)


def _reduce(values: Array, windows: Windows, start: float, operation: Callable[[Array, Array], Array]) -> Array:
    """XLA's window reduction, for windows too large to take apart."""
    crop = values[:, : windows.reach[0] - windows.pad[0], : windows.reach[1] - windows.pad[1]]
    pads = ((0, 0), *windows.pads, (0, 0))
    kernel, stride = (1, *windows.kernel, 1), (1, *windows.stride, 1)
    # a start that is no traced value: JAX recognizes the operation, and its gradient, by it
    return lax.reduce_window(crop, np.asarray(start, values.dtype), operation, kernel, stride, pads)


def max_pool(values: Array, windows: Windows) -> Array:
    """The greatest value of each window.

    Where several are equal, the gradient flows to the first one in reading order, as in Caffe.

    Args:
        values: (N, H, W, C).
        windows: where to look.

    Returns:
        (N, H', W', C).
    """
    if windows.whole:
        return _whole_max(values)
    if windows.places <= _MOST_PLACES:
        return _max_by_place(values, windows)
    return _reduce(values, windows, -np.inf, lax.max)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_by_place(values: Array, windows: Windows) -> Array:
    return _max_forward(values, windows)[0]


def _max_forward(values: Array, windows: Windows) -> tuple[Array, Array]:
    """The maxima, and the place in its window (int8) that each comes from."""

    def best(values: Array) -> tuple[Array, Array]:
        first, *others = _slices(_padded(values, windows, _lowest(values.dtype)), windows)
        top, place = first, jnp.zeros(first.shape, jnp.int8)
        for number, other in enumerate(others, start=1):
            better = other > top
            top = jnp.where(better, other, top)
            place = jnp.where(better, jnp.int8(number), place)
        return top, place

    return isolated(best, values)


def _max_backward(windows: Windows, place: Array, gradient: Array) -> tuple[Array]:
    def bottom(gradient: Array, place: Array) -> Array:
        return _spread(gradient, windows, place)

    return (isolated(bottom, gradient, place),)


_max_by_place.defvjp(_max_forward, _max_backward)


def _whole_max(values: Array) -> Array:
    """The greatest value of each channel: (N, H, W, C) to (N, 1, 1, C)."""
    flat = values.reshape(values.shape[0], values.shape[1] * values.shape[2], values.shape[3])
    first = jnp.argmax(flat, axis=1, keepdims=True)
    chosen = lax.broadcasted_iota(first.dtype, flat.shape, 1) == first
    return jnp.where(chosen, flat, jnp.zeros_like(flat)).sum(axis=1)[:, None, None, :]


def max_places(values: Array, windows: Windows) -> Array:
    """Where each window's greatest value lies: ``row * width + column`` in the bottom, in the values' dtype.

    No gradient flows through it.
    """
    high, wide = windows.size
    values = lax.stop_gradient(values)
    rows, columns = (lax.broadcasted_iota(jnp.int32, values.shape, axis) for axis in (1, 2))
    crop = [slice(None), *(slice(r - p) for r, p in zip(windows.reach, windows.pad, strict=True))]

    def better(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
        keep = (one[0] > other[0]) | ((one[0] == other[0]) & (one[1] <= other[1]))
        return jnp.where(keep, one[0], other[0]), jnp.where(keep, one[1], other[1])

    start = (jnp.asarray(-np.inf, values.dtype), jnp.int32(high * wide))
    operands = (values[tuple(crop)], (rows * wide + columns)[tuple(crop)])
    kernel, stride = (1, *windows.kernel, 1), (1, *windows.stride, 1)
    _, places = lax.reduce_window(operands, start, better, kernel, stride, ((0, 0), *windows.pads, (0, 0)))
    return places.astype(values.dtype)


def average_pool(values: Array, windows: Windows) -> Array:
    """The mean of each window, (N, H, W, C) to (N, H', W', C); see :meth:`Windows.divisors` for what it counts."""
    if windows.whole:
        return values.mean(axis=(1, 2), keepdims=True)
    inverse = jnp.asarray(1.0 / windows.divisors(), values.dtype)[None, :, :, None]
    if windows.places <= _MOST_PLACES:
        return _sum_by_place(values, windows) * inverse
    return _reduce(values, windows, 0.0, lax.add) * inverse


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sum_by_place(values: Array, windows: Windows) -> Array:
    return isolated(lambda values: reduce(add, _slices(_padded(values, windows, 0.0), windows)), values)


def _sum_forward(values: Array, windows: Windows) -> tuple[Array, None]:
    return _sum_by_place(values, windows), None


def _sum_backward(windows: Windows, _: None, gradient: Array) -> tuple[Array]:
    return (isolated(lambda gradient: _spread(gradient, windows), gradient),)


_sum_by_place.defvjp(_sum_forward, _sum_backward)


def stochastic_pool(values: Array, windows: Windows, rng: Array | None) -> Array:
    """One value of each window, drawn with a probability in proportion to it (Zeiler and Fergus 2013).

    Args:
        values: (N, H, W, C), not negative (put a ReLU before).
        windows: where to look, without padding.
        rng: a key; None gives the mean that belongs to these probabilities, as in TEST.

    Returns:
        (N, H', W', C).
    """
    places = _slices(_padded(values, windows, 0.0), windows)
    total = reduce(add, places)
    if rng is None:
        # the tiniest number keeps an empty window at 0
        return reduce(add, [place * place for place in places]) / (total + jnp.finfo(values.dtype).tiny)
    threshold = lax.stop_gradient(total) * jax.random.uniform(rng, total.shape, total.dtype)
    top, passed, found = jnp.zeros_like(total), jnp.zeros_like(total), jnp.zeros(total.shape, bool)
    for place in places:
        passed = passed + lax.stop_gradient(place)
        now = ~found & (passed >= threshold)
        top = jnp.where(now, place, top)
        found = found | now
    return top


@register("Pooling")
class Pooling(Layer):
    """Maximum, average or stochastic pooling over windows of a 4-axis bottom.

    With MAX a second top gives each maximum's place in the bottom (``row * width + column``).
    """

    arithmetic = "sums"

    layout = "last"
    n_tops = (1, 2)

    def setup(self) -> None:
        """Read the fields and place the windows.

        Raises:
            NetError: for fields that contradict each other or do not fit the bottom.
        """
        param, shape = self.param.pooling_param, self.bottom_shapes[0]
        if len(shape) != 4:
            self.fail(f"needs a bottom of 4 axes (num, channels, height, width), not shape {shape}.")
        use_layout(self, "last")
        self.method = param.pool
        if len(self.param.top) > 1 and self.method != caffe_pb2.PoolingParameter.MAX:
            self.fail("a second top, with the places of the maxima, is for pool MAX only.")
        size = (shape[2], shape[3])
        self.windows = place_windows(size, self._kernel(size), *self._stride_and_pad(), self._floor())
        if min(self.windows.out) < 1:
            self.fail(
                f"kernel {self.windows.kernel} is larger than the bottom, {size} with padding {self.windows.pad} on "
                "both sides; make it smaller, pad more, or use global_pooling."
            )
        self.top_shapes = [(shape[0], shape[1], *self.windows.out)] * len(self.param.top)

    def _floor(self) -> bool:
        return self.param.pooling_param.round_mode == caffe_pb2.PoolingParameter.FLOOR

    def _kernel(self, size: Pair) -> Pair:
        param = self.param.pooling_param
        sides = param.HasField("kernel_h"), param.HasField("kernel_w")
        if param.global_pooling:
            if param.HasField("kernel_size") or any(sides):
                self.fail("global_pooling takes the whole bottom: give no kernel size with it.")
            return size
        if param.HasField("kernel_size") == any(sides) or any(sides) != all(sides):
            self.fail("give kernel_size, or both kernel_h and kernel_w.")
        kernel = (param.kernel_size, param.kernel_size) if not any(sides) else (param.kernel_h, param.kernel_w)
        if min(kernel) < 1:
            self.fail(f"kernel {kernel} must be 1 or more.")
        return kernel

    def _stride_and_pad(self) -> tuple[Pair, Pair]:
        param = self.param.pooling_param
        stride, pad = (param.stride, param.stride), (param.pad, param.pad)
        for field, stated in (("stride", param.HasField("stride")), ("pad", param.HasField("pad"))):
            sides = [param.HasField(f"{field}_{side}") for side in "hw"]
            if any(sides) and (stated or not all(sides)):
                self.fail(f"give {field}, or both {field}_h and {field}_w.")
        if param.HasField("stride_h"):
            stride = (param.stride_h, param.stride_w)
        if param.HasField("pad_h"):
            pad = (param.pad_h, param.pad_w)
        if min(stride) < 1:
            self.fail(f"stride {stride} must be 1 or more.")
        self._check_pad(stride, pad)
        return stride, pad

    def _check_pad(self, stride: Pair, pad: Pair) -> None:
        param = self.param.pooling_param
        if param.global_pooling and (pad != (0, 0) or stride != (1, 1)):
            self.fail(f"global_pooling takes the whole bottom: pad {pad} must be 0 and stride {stride} 1.")
        if pad == (0, 0):
            return
        if self.method == caffe_pb2.PoolingParameter.STOCHASTIC:
            self.fail("padding is for pool MAX and AVE only.")
        shape = self.bottom_shapes[0]
        kernel = self._kernel((shape[2], shape[3]))
        if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
            self.fail(f"pad {pad} must be less than kernel {kernel}.")

    @property
    def random(self) -> bool:
        """Only stochastic pooling in TRAIN."""
        return self.method == caffe_pb2.PoolingParameter.STOCHASTIC and self.phase == "TRAIN"

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The pooled bottom, and the places of the maxima where there is a second top."""
        values = bottoms[0]
        if self.method == caffe_pb2.PoolingParameter.AVE:
            return [average_pool(values, self.windows)]
        if self.method == caffe_pb2.PoolingParameter.STOCHASTIC:
            if self.random and rng is None:
                self.fail("draws random numbers in TRAIN and needs rng.")
            return [stochastic_pool(values, self.windows, rng if self.random else None)]
        tops = [max_pool(values, self.windows)]
        if len(self.param.top) > 1:
            tops.append(max_places(values, self.windows))
        return tops


__all__ = ["Pooling", "Windows", "average_pool", "max_places", "max_pool", "place_windows", "stochastic_pool"]
