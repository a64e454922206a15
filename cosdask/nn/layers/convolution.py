"""Convolution and deconvolution over any number of spatial axes.

Two spatial axes run channels-last with weights kept as (height, width, in, out), which XLA does fast; other numbers run
in Caffe's layout. Which form a convolution and its gradients take on CPUs goes by its shapes alone, as measured per
layer (benchmarks/README.md); a gradient that nobody asks for (the bottom's of a net's first convolution) is never
computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cosdask.nn.layer import Array, Layer, Shape, Weight, canonical_axis, count, register
from cosdask.nn.layers.ops import add_bias, isolated, on_cpu, use_layout

#: axes of a 2-D convolution's weights: Caffe's (out, in, height, width) to (height, width, in, out)
HWIO = (2, 3, 1, 0)
_LAST = ("NHWC", "HWIO", "NHWC")
#: more groups than this are left to XLA's grouped convolution: the program would grow with each of them
_MOST_SPLITS = 64
#: values that windows give to their places, up to which their sum is faster than a convolution: 8 MiB of float32
_MOST_COLUMNS = 1 << 21
#: places of a 1x1 convolution from which on its forward pass, and up to which its weights' gradient, is XLA's own
_MANY_PLACES, _FEW_PLACES = 4096, 256
#: channels up to which a strided convolution is folded, and places of a one-channel window up to which it is a sum
_FEW_CHANNELS, _MOST_TERMS = 4, 49


@dataclass(frozen=True)
class Geometry:
    """What a convolution does on its spatial axes; every field has an entry an axis.

    Args:
        kernel: size of the window in weights.
        stride: step between windows.
        pad: (before, after).
        dilation: step between the weights of a window.
        group: number of independent groups of channels.
    """

    kernel: Shape
    stride: Shape
    pad: tuple[tuple[int, int], ...]
    dilation: Shape
    group: int

    @property
    def extent(self) -> Shape:
        """Size of the window in values."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))


def convolve_last(values: Array, weights: Array, geometry: Geometry) -> Array:
    """2-D convolution, channels last.

    Args:
        values: (N, H, W, C).
        weights: (kernel height, kernel width, C / group, outputs).
        geometry: of two spatial axes.

    Returns:
        (N, H', W', outputs).
    """
    group = geometry.group
    if group == 1:
        if geometry.kernel == (1, 1) and not any(map(any, geometry.pad)):
            return _pointwise(values, weights, geometry.stride)
        if on_cpu() and values.dtype == jnp.float32 and geometry.dilation == (1, 1):
            if weights.shape[2] == 1 and count(geometry.kernel) <= _MOST_TERMS:
                return _one_channel(values, weights, geometry)
            if weights.shape[2] <= _FEW_CHANNELS and 1 < geometry.stride[0] == geometry.stride[1]:
                return _folded(values, weights, geometry)
        if _sums_columns(values, weights, geometry):
            return _by_columns(values, weights, geometry)
        return _xla_convolution(values, weights, geometry, 1)
    if on_cpu() and weights.shape[2] == 1 and group > 2:
        return _depthwise(values, weights, geometry)
    if on_cpu() and group <= _MOST_SPLITS:
        pairs = zip(jnp.split(values, group, axis=3), jnp.split(weights, group, axis=3), strict=True)
        return jnp.concatenate([_xla_convolution(v, w, geometry, 1) for v, w in pairs], axis=3)
    return _xla_convolution(values, weights, geometry, group)


def _xla_convolution(values: Array, weights: Array, geometry: Geometry, group: int) -> Array:
    return lax.conv_general_dilated(
        values,
        weights,
        window_strides=geometry.stride,
        padding=geometry.pad,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_LAST,
        feature_group_count=group,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _one_channel(values: Array, weights: Array, geometry: Geometry) -> Array:
    """A convolution of one channel as a weighted sum of shifted values: XLA's own spends its time on sorting them."""
    return isolated(lambda values, weights: _depthwise(values, weights, geometry), values, weights)


def _one_channel_forward(values: Array, weights: Array, geometry: Geometry) -> tuple[Array, tuple[Array, Array]]:
    return _one_channel(values, weights, geometry), (values, weights)


def _one_channel_backward(geometry: Geometry, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    values, weights = saved
    _, pull = jax.vjp(lambda values, weights: _xla_convolution(values, weights, geometry, 1), values, weights)
    bottom, change = pull(gradient)
    return bottom, change


_one_channel.defvjp(_one_channel_forward, _one_channel_backward)


def _folded(values: Array, weights: Array, geometry: Geometry) -> Array:
    """A strided convolution of few channels as one of stride 1, with the places of a stride's square as channels."""
    (step, _), sizes = geometry.stride, values.shape[1:3]
    blocks = [-(-kernel // step) for kernel in geometry.kernel]
    windows = [
        (size + sum(pad) - kernel) // step + 1
        for size, pad, kernel in zip(sizes, geometry.pad, geometry.kernel, strict=True)
    ]
    high, wide = (first - 1 + more for first, more in zip(windows, blocks, strict=True))
    zero = jnp.zeros((), values.dtype)
    ends = [
        (before, length * step - size - before, 0)
        for length, size, (before, _) in zip((high, wide), sizes, geometry.pad, strict=True)
    ]
    padded = lax.pad(values, zero, ((0, 0, 0), *ends, (0, 0, 0)))
    number, channels, outputs = values.shape[0], *weights.shape[2:]
    folded = padded.reshape(number, high, step, wide, step, channels).transpose(0, 1, 3, 2, 4, 5)
    rests = [(0, more * step - kernel, 0) for more, kernel in zip(blocks, geometry.kernel, strict=True)]
    filled = lax.pad(weights, zero, (*rests, (0, 0, 0), (0, 0, 0)))
    table = filled.reshape(blocks[0], step, blocks[1], step, channels, outputs).transpose(0, 2, 1, 3, 4, 5)
    inner = step * step * channels
    plain = Geometry((blocks[0], blocks[1]), (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    top = folded.reshape(number, high, wide, inner), table.reshape(*blocks, inner, outputs)
    return _xla_convolution(*top, plain, 1)


def _sums_columns(values: Array, weights: Array, geometry: Geometry) -> bool:
    """Whether the bottom's gradient is one product and a sum (:func:`_by_columns`): for few places, on CPUs."""
    if not on_cpu() or values.dtype != jnp.float32 or geometry.stride != (1, 1) or geometry.dilation != (1, 1):
        return False
    sizes = zip(values.shape[1:3], geometry.kernel, geometry.pad, strict=True)
    windows = count(tuple(size + sum(pad) - kernel + 1 for size, kernel, pad in sizes))
    return values.shape[0] * windows * count(weights.shape[:3]) <= _MOST_COLUMNS


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_columns(values: Array, weights: Array, geometry: Geometry) -> Array:
    """A convolution whose bottom's gradient needs no turned weights: XLA turns them so slowly that it counts."""
    return _xla_convolution(values, weights, geometry, 1)


def _columns_forward(values: Array, weights: Array, geometry: Geometry) -> tuple[Array, tuple[Array, Array]]:
    return _by_columns(values, weights, geometry), (values, weights)


def _columns_backward(geometry: Geometry, saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    values, weights = saved
    _, pull = jax.vjp(lambda weights: _xla_convolution(values, weights, geometry, 1), weights)
    return _columns_sum(gradient, weights, values.shape, geometry), pull(gradient)[0]


_by_columns.defvjp(_columns_forward, _columns_backward)


def _columns_sum(gradient: Array, weights: Array, shape: Shape, geometry: Geometry) -> Array:
    """What each window gives to each of its places, by one product; then the sum over the windows of each place."""
    (rows, columns), (_, high, wide, _) = geometry.kernel, gradient.shape
    table = weights.reshape(count(weights.shape[:3]), weights.shape[3])
    each = lax.dot_general(gradient, table, (((3,), (1,)), ((), ())))
    each = each.reshape(*gradient.shape[:3], rows * columns, shape[3])
    terms = []
    for place, (row, column) in enumerate(np.ndindex(rows, columns)):
        down, right = row - geometry.pad[0][0], column - geometry.pad[1][0]
        config = ((0, 0, 0), (down, shape[1] - high - down, 0), (right, shape[2] - wide - right, 0), (0, 0, 0))
        terms.append(lax.pad(each[:, :, :, place], jnp.zeros((), each.dtype), config))
    return reduce(add, terms)


def _pointwise(values: Array, weights: Array, stride: Shape) -> Array:
    """A 1x1 convolution as one product of matrices; its gradients then are products as well."""
    values = values[:, :: stride[0], :: stride[1]]
    if on_cpu() and values.dtype == jnp.float32:
        return _product_of_places(values, weights)
    flat = values.reshape(count(values.shape[:3]), values.shape[3])
    return jnp.dot(flat, weights[0, 0]).reshape(*values.shape[:3], weights.shape[3])


_ONE = Geometry((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1)


@jax.custom_vjp
def _product_of_places(values: Array, weights: Array) -> Array:
    """``(N, H, W, C)`` times ``(1, 1, C, O)``, as a convolution where there are more places than the product likes."""
    places, channels = count(values.shape[:3]), values.shape[3]
    if places >= _MANY_PLACES:
        return _xla_convolution(values, weights, _ONE, 1)
    top = jnp.dot(values.reshape(places, channels), weights[0, 0])
    return top.reshape(*values.shape[:3], weights.shape[3])


def _places_forward(values: Array, weights: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product_of_places(values, weights), (values, weights)


def _places_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    values, weights = saved
    places, (channels, outputs) = count(values.shape[:3]), weights.shape[2:]
    flat = gradient.reshape(places, outputs)
    bottom = jnp.dot(flat, weights[0, 0].T).reshape(values.shape)
    if places <= _FEW_PLACES:
        _, pull = jax.vjp(lambda weights: _xla_convolution(values, weights, _ONE, 1), weights)
        return bottom, pull(gradient)[0]
    # this way round the product is faster than with the bottom on the left
    return bottom, jnp.dot(flat.T, values.reshape(places, channels)).T[None, None]


_product_of_places.defvjp(_places_forward, _places_backward)


def _depthwise(values: Array, weights: Array, geometry: Geometry) -> Array:
    """One channel a group: a weighted sum of shifted values, an addend for each place in the window."""
    repeats = weights.shape[3] // geometry.group
    if repeats > 1:
        shape = values.shape
        values = jnp.broadcast_to(values[..., None], (*shape, repeats)).reshape(*shape[:3], shape[3] * repeats)
    (top, bottom), (left, right) = geometry.pad
    padded = lax.pad(values, jnp.zeros((), values.dtype), ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)))
    steps = (1, *geometry.stride, 1)
    extent, shape = geometry.extent, padded.shape
    sizes = [(shape[1 + i] - extent[i]) // geometry.stride[i] for i in (0, 1)]  # windows less one
    terms = []
    for row in range(geometry.kernel[0]):
        for column in range(geometry.kernel[1]):
            first = (0, row * geometry.dilation[0], column * geometry.dilation[1], 0)
            last = [first[1 + i] + sizes[i] * geometry.stride[i] + 1 for i in (0, 1)]
            window = lax.slice(padded, first, (shape[0], *last, shape[3]), steps)
            terms.append(window * weights[row, column, 0][None, None, None, :])
    return reduce(add, terms)


def deconvolve_last(values: Array, weights: Array, geometry: Geometry) -> Array:
    """The gradient of :func:`convolve_last` with respect to its values, as a forward pass.

    Args:
        values: (N, H, W, C).
        weights: (kernel height, kernel width, outputs / group, C).
        geometry: that of the convolution.

    Returns:
        (N, H', W', outputs).
    """
    pairs = zip(jnp.split(values, geometry.group, axis=3), jnp.split(weights, geometry.group, axis=3), strict=True)
    turned = [(v, jnp.flip(w, (0, 1)).swapaxes(2, 3)) for v, w in pairs]
    parts = [_transposed(v, w, geometry, _LAST) for v, w in turned]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=3)


def _transposed(values: Array, turned: Array, geometry: Geometry, axes: tuple[str, str, str]) -> Array:
    """One group of a deconvolution: spread the values by the stride, then convolve with the turned weights."""
    pad = [(e - 1 - before, e - 1 - after) for e, (before, after) in zip(geometry.extent, geometry.pad, strict=True)]
    return lax.conv_general_dilated(
        values,
        turned,
        window_strides=(1,) * len(pad),
        padding=pad,
        lhs_dilation=geometry.stride,
        rhs_dilation=geometry.dilation,
        dimension_numbers=axes,
    )


def _caffe_axes(spatial: int) -> tuple[str, str, str]:
    """Dimension numbers of Caffe's layout for any number of spatial axes."""
    names = "".join(chr(ord("a") + axis) for axis in range(spatial))
    return "NC" + names, "OI" + names, "NC" + names


class _ConvolutionBase(Layer):
    """What convolution and deconvolution share: fields, weights, layout and bias."""

    arithmetic = "products"

    n_bottoms = (1, None)
    n_tops = (1, None)
    layout = "last"

    def setup(self) -> None:
        """Read and check the fields, and work out shapes.

        Raises:
            NetError: for fields that contradict each other or do not fit the bottom.
        """
        shape = self.bottom_shapes[0]
        self._check_bottoms()
        param = self.param.convolution_param
        self.axis = canonical_axis(self, param.axis, len(shape))
        self.spatial = len(shape) - self.axis - 1
        self.channels = shape[self.axis]
        self.fast = len(shape) == 4 and self.spatial == 2
        if not self.fast:
            use_layout(self, "caffe")
        self.geometry, out = self._fit(self._geometry(), shape[self.axis + 1 :])
        self.outputs = self._outputs()
        self.top_shapes = [(*shape[: self.axis], self.outputs, *out)] * len(self.bottom_shapes)
        self.weights = [Weight(self._weight_shape(), param.weight_filler, HWIO if self.fast else None)]
        if param.bias_term:
            self.weights.append(Weight((self.outputs,), param.bias_filler))

    def _check_bottoms(self) -> None:
        if len(self.bottom_shapes) != len(self.param.top):
            self.fail(f"takes as many tops as bottoms, but has {len(self.param.top)} and {len(self.bottom_shapes)}.")
        first, *others = self.bottom_shapes
        for position, shape in enumerate(others, start=1):
            if shape != first:
                self.fail(f"bottom {position} has shape {shape}, bottom 0 has {first}; they must be equal.")

    def _geometry(self) -> Geometry:
        """The fields as given, checked, with the same padding on both sides."""
        param = self.param.convolution_param
        kernel = self._per_axis("kernel_size", "kernel", None)
        stride = self._per_axis("stride", "stride", 1)
        pad = self._per_axis("pad", "pad", 0)
        dilation = self._spread("dilation", list(param.dilation), 1)
        if min(kernel + stride + dilation, default=1) < 1:
            self.fail(f"kernel {kernel}, stride {stride} and dilation {dilation} must be 1 or more.")
        if param.group < 1:
            self.fail(f"group (={param.group}) must be 1 or more.")
        return Geometry(kernel, stride, tuple((p, p) for p in pad), dilation, param.group)

    def _per_axis(self, field: str, stem: str, default: int | None) -> Shape:
        """A field that is given once, once an axis, or (for two axes) with ``_h`` and ``_w``."""
        param = self.param.convolution_param
        listed = list(getattr(param, field))
        height, width = f"{stem}_h", f"{stem}_w"
        if not (param.HasField(height) or param.HasField(width)):
            return self._spread(field, listed, default)
        if self.spatial != 2:
            self.fail(f"{height} and {width} are for bottoms of 2 spatial axes, not {self.spatial}; give {field}.")
        if listed:
            self.fail(f"give {field} or {height} and {width}, not both.")
        return getattr(param, height), getattr(param, width)

    def _spread(self, field: str, listed: list[int], default: int | None) -> Shape:
        if not listed and default is not None:
            listed = [default]
        if len(listed) not in (1, self.spatial):
            self.fail(f"{field} is given {len(listed)} times; give it once, or once for each of {self.spatial} axes.")
        return tuple(listed) if len(listed) == self.spatial else tuple(listed) * self.spatial

    def _outputs(self) -> int:
        outputs, group = self.param.convolution_param.num_output, self.geometry.group
        if outputs < 1:
            self.fail("num_output must be given and be 1 or more.")
        if self.channels % group or outputs % group:
            channels = self.channels
            self.fail(f"group (={group}) must divide the bottom's {channels} channels and num_output (={outputs}).")
        return outputs

    def _fit(self, geometry: Geometry, size: Shape) -> tuple[Geometry, Shape]:
        """The geometry for a bottom of this size, and the size of the top."""
        raise NotImplementedError

    def _weight_shape(self) -> Shape:
        raise NotImplementedError

    def _apply(self, values: Array, weights: Array) -> Array:
        """Without bias: channels last where :attr:`fast`, else (N, C, spatial axes)."""
        raise NotImplementedError

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """One top for each bottom, all with the same weights."""
        if self.fast:
            tops = [self._apply(bottom, weights[0]) for bottom in bottoms]
            return [add_bias(top, weights[1]) for top in tops] if len(weights) > 1 else tops
        return [self._any_axes(bottom, weights) for bottom in bottoms]

    def _any_axes(self, bottom: Array, weights: Sequence[Array]) -> Array:
        before = bottom.shape[: self.axis]
        top = self._apply(bottom.reshape(count(before), *bottom.shape[self.axis :]), weights[0])
        if len(weights) > 1:
            top = top + weights[1].reshape(1, -1, *(1,) * self.spatial)
        return top.reshape(*before, *top.shape[1:])


@register("Convolution")
class Convolution(_ConvolutionBase):
    """Convolution (a correlation, as in all such libraries) with stride, padding, dilation and groups.

    The top's size is ``(size + 2 * pad - extent) / stride + 1``, rounded towards zero before the 1 is added.
    """

    def _fit(self, geometry: Geometry, size: Shape) -> tuple[Geometry, Shape]:
        out, pads = [], []
        for axis, (length, extent, (pad, _)) in enumerate(zip(size, geometry.extent, geometry.pad, strict=True)):
            stride = geometry.stride[axis]
            # C's division rounds towards zero: a window that sticks out by less than a stride still counts
            windows = int((length + 2 * pad - extent) / stride) + 1
            if windows < 1:
                self.fail(
                    f"its window covers {extent} values on spatial axis {axis}, more than the bottom's {length} "
                    f"with padding {pad} on both sides; make the kernel or dilation smaller, or pad more."
                )
            out.append(windows)
            pads.append((pad, max(pad, (windows - 1) * stride + extent - length - pad)))
        return Geometry(geometry.kernel, geometry.stride, tuple(pads), geometry.dilation, geometry.group), tuple(out)

    def _weight_shape(self) -> Shape:
        return (self.outputs, self.channels // self.geometry.group, *self.geometry.kernel)

    def _apply(self, values: Array, weights: Array) -> Array:
        if self.fast:
            return convolve_last(values, weights, self.geometry)
        return lax.conv_general_dilated(
            values,
            weights,
            window_strides=self.geometry.stride,
            padding=self.geometry.pad,
            rhs_dilation=self.geometry.dilation,
            dimension_numbers=_caffe_axes(self.spatial),
            feature_group_count=self.geometry.group,
        )


@register("Deconvolution")
class Deconvolution(_ConvolutionBase):
    """The transpose of a convolution: its top's size is ``stride * (size - 1) + extent - 2 * pad``."""

    def _fit(self, geometry: Geometry, size: Shape) -> tuple[Geometry, Shape]:
        sides = zip(size, geometry.stride, geometry.extent, geometry.pad, strict=True)
        out = tuple(stride * (length - 1) + extent - sum(pads) for length, stride, extent, pads in sides)
        if min(out, default=1) < 1:
            self.fail(f"padding {geometry.pad} leaves a top of size {out}; pad less.")
        return geometry, out

    def _weight_shape(self) -> Shape:
        return (self.channels, self.outputs // self.geometry.group, *self.geometry.kernel)

    def _apply(self, values: Array, weights: Array) -> Array:
        if self.fast:
            return deconvolve_last(values, weights, self.geometry)
        group, spatial = self.geometry.group, tuple(range(2, 2 + self.spatial))
        pairs = zip(jnp.split(values, group, axis=1), jnp.split(weights, group, axis=0), strict=True)
        turned = [(v, jnp.flip(w, spatial).swapaxes(0, 1)) for v, w in pairs]
        axes = _caffe_axes(self.spatial)
        return jnp.concatenate([_transposed(v, w, self.geometry, axes) for v, w in turned], axis=1)


__all__ = ["HWIO", "Convolution", "Deconvolution", "Geometry", "convolve_last", "deconvolve_last"]
