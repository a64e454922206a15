"""BatchNorm, Scale and Bias."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cosdask.nn.layer import Array, Layer, Shape, Weight, canonical_axis, register
from cosdask.nn.layers.ops import add_bias, channel_sum, channel_sum_of, over_channels, scale_channels, use_layout
from cosdask.nn.shared import mean_over_ranks, sharing_ranks
from cosdask.proto import caffe_pb2


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def normalize_batch(values: Array, eps: float) -> tuple[Array, Array, Array]:
    """Subtract each channel's mean and divide by ``sqrt(variance + eps)`` (Ioffe and Szegedy 2015).

    Args:
        values: (..., C).
        eps: added to the variance.

    Returns:
        The normalized values, the means and the (biased) variances, both of (C,); no gradient flows through the last
        two.
    """
    return _normalize_forward(values, eps)[0]


Moments = tuple[Array, Array, Array]


def _normalize_forward(values: Array, eps: float) -> tuple[Moments, Moments]:
    per_channel = values.size // values.shape[-1]
    mean = mean_over_ranks(channel_sum(values) / per_channel, "batch_norm")

    def squares(rows: Array) -> Array:
        return jnp.square(rows - over_channels(mean, rows.ndim))

    variance = mean_over_ranks(channel_sum_of(squares, values) / per_channel, "batch_norm")
    inverse = lax.rsqrt(variance + eps)
    return (_normalized(values, mean, inverse), mean, variance), (values, mean, inverse)


def _normalized(values: Array, mean: Array, inverse: Array) -> Array:
    """Cheap enough to be computed again wherever it is read, which costs no memory."""
    return (values - over_channels(mean, values.ndim)) * over_channels(inverse, values.ndim)


def _normalize_backward(eps: float, saved: Moments, gradients: Moments) -> tuple[Array]:
    values, mean, inverse = saved
    gradient, per_channel, rank = gradients[0], values.size // values.shape[-1], values.ndim

    def product(gradient: Array, values: Array) -> Array:
        return gradient * _normalized(values, mean, inverse)

    sums = channel_sum(gradient), channel_sum_of(product, gradient, values)
    level, along = (over_channels(mean_over_ranks(s, "batch_norm") / per_channel, rank) for s in sums)
    return ((gradient - level - _normalized(values, mean, inverse) * along) * over_channels(inverse, rank),)


normalize_batch.defvjp(_normalize_forward, _normalize_backward)


@register("BatchNorm")
class BatchNorm(Layer):
    """Normalize each channel over the batch, or by running sums (``use_global_stats``, the default in TEST).

    Its three weight blobs are sums: of the means, of the variances (scaled to be unbiased), and of their weights, each
    multiplied by ``moving_average_fraction`` before a batch is added.
    """

    arithmetic = "sums"

    def setup(self) -> None:
        """Read the fields.

        Raises:
            NetError: where a multiplier asks the solver to train the sums.
        """
        param, shape = self.param.batch_norm_param, self.bottom_shapes[0]
        self.use_sums = param.use_global_stats if param.HasField("use_global_stats") else self.phase == "TEST"
        if any(spec.lr_mult != 0 for spec in self.param.param):
            self.fail("its sums are not trained: set lr_mult to 0 in every param, or leave param out.")
        if len(shape) == 4:
            use_layout(self, "last")
        channels = 1 if len(shape) == 1 else shape[1]
        self.weights = [Weight(blob, learnable=False) for blob in ((channels,), (channels,), (1,))]
        self.top_shapes = [shape]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The normalized bottom."""
        return self.forward_and_update(weights, bottoms, rng)[0]

    def forward_and_update(
        self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None
    ) -> tuple[list[Array], Sequence[Array]]:
        """The normalized bottom, and the sums with this batch in them."""
        sums = [lax.stop_gradient(weight) for weight in weights]
        values = self._channels_last(bottoms[0])
        eps = self.param.batch_norm_param.eps
        if self.use_sums:
            top = self._by_sums(sums, values, eps)
        else:
            top, mean, variance = normalize_batch(values, eps)
            each = values.size // mean.size * sharing_ranks("batch_norm")
            sums = self._add(sums, lax.stop_gradient(mean), lax.stop_gradient(variance), each)
        return [self._back(top)], sums

    @staticmethod
    def _by_sums(sums: Sequence[Array], values: Array, eps: float) -> Array:
        total = sums[2][0]
        factor = jnp.where(total == 0, jnp.zeros_like(total), 1 / jnp.where(total == 0, jnp.ones_like(total), total))
        mean, inverse = sums[0] * factor, lax.rsqrt(sums[1] * factor + eps)
        return (values - over_channels(mean, values.ndim)) * over_channels(inverse, values.ndim)

    def _add(self, sums: Sequence[Array], mean: Array, variance: Array, per_channel: int) -> list[Array]:
        keep = self.param.batch_norm_param.moving_average_fraction
        unbiased = variance * (per_channel / (per_channel - 1)) if per_channel > 1 else variance
        return [keep * sums[0] + mean, keep * sums[1] + unbiased, keep * sums[2] + 1]

    def _channels_last(self, values: Array) -> Array:
        if self.layout == "last":
            return values
        return values[:, None] if values.ndim == 1 else jnp.moveaxis(values, 1, -1)

    def _back(self, top: Array) -> Array:
        if self.layout == "last":
            return top
        return top[:, 0] if len(self.bottom_shapes[0]) == 1 else jnp.moveaxis(top, -1, 1)


class _PerAxis(Layer):
    """What Scale and Bias share: a blob, learned or the second bottom, that spans some axes of the first bottom."""

    arithmetic = "as_given"

    n_bottoms = (1, 2)

    def _span(self, param: caffe_pb2.ScaleParameter | caffe_pb2.BiasParameter) -> Shape:
        """Work out which axes the blob spans, set the layout, and return the blob's shape."""
        shape = self.bottom_shapes[0]
        if len(self.bottom_shapes) == 2:
            blob = self.bottom_shapes[1]
            axis = canonical_axis(self, param.axis, len(shape)) if blob else 0
            if shape[axis : axis + len(blob)] != blob:
                self.fail(f"the second bottom's shape {blob} must equal the first one's {shape} from axis {axis} on.")
        else:
            if param.num_axes < -1:
                self.fail(f"num_axes (={param.num_axes}) must be 0 or more, or -1 for all axes from axis on.")
            axis = canonical_axis(self, param.axis, len(shape)) if param.num_axes else 0
            end = len(shape) if param.num_axes == -1 else axis + param.num_axes
            if end > len(shape):
                self.fail(f"axis (={axis}) plus num_axes (={param.num_axes}) is beyond the bottom's {len(shape)} axes.")
            blob = shape[axis:end]
        self.per_channel = len(shape) == 4 and axis == 1 and len(blob) == 1
        if self.per_channel:
            use_layout(self, "last")
        self.broadcast = (1,) * axis + blob + (1,) * (len(shape) - axis - len(blob))
        self.top_shapes = [shape]
        return blob

    def _scaled(self, values: Array, blob: Array) -> Array:
        return scale_channels(values, blob) if self.per_channel else values * blob.reshape(self.broadcast)

    def _shifted(self, values: Array, blob: Array) -> Array:
        return add_bias(values, blob) if self.per_channel else values + blob.reshape(self.broadcast)


@register("Scale")
class Scale(_PerAxis):
    """The bottom times a blob that spans ``num_axes`` axes from ``axis`` on, plus a bias of its shape if asked for.

    The factor is learned (starting at 1) or, where there is one, the second bottom.
    """

    def setup(self) -> None:
        """Work out the blob's shape.

        Raises:
            NetError: where it does not fit the bottom.
        """
        param = self.param.scale_param
        blob = self._span(param)
        self.learned = len(self.bottom_shapes) == 1
        one = caffe_pb2.FillerParameter(type="constant", value=1)
        if self.learned:
            self.weights.append(Weight(blob, param.filler if param.HasField("filler") else one))
        if param.bias_term:
            self.weights.append(Weight(blob, param.bias_filler))

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The scaled and shifted bottom."""
        top = self._scaled(bottoms[0], weights[0] if self.learned else bottoms[1])
        return [self._shifted(top, weights[-1]) if self.param.scale_param.bias_term else top]


@register("Bias")
class Bias(_PerAxis):
    """The bottom plus a blob that spans ``num_axes`` axes from ``axis`` on: learned, or the second bottom."""

    def setup(self) -> None:
        """Work out the blob's shape.

        Raises:
            NetError: where it does not fit the bottom.
        """
        param = self.param.bias_param
        blob = self._span(param)
        if len(self.bottom_shapes) == 1:
            self.weights.append(Weight(blob, param.filler))

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The shifted bottom."""
        return [self._shifted(bottoms[0], weights[0] if weights else bottoms[1])]


__all__ = ["BatchNorm", "Bias", "Scale", "normalize_batch"]
