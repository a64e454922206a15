"""Elementwise layers beside the common activations: AbsVal, BNLL, Clip, ELU, Exp, Log, PReLU, Swish, Threshold.

Every layer here gives a top of its bottom's shape and dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from cosdask.nn.layer import Arithmetic, Array, Layer, Weight, register
from cosdask.nn.layers.ops import scale_channels
from cosdask.proto import caffe_pb2


class _Elementwise(Layer):
    """One bottom, one top of the same shape: ``y = self.apply(x)``."""

    arithmetic: ClassVar[Arithmetic] = "as_given"

    layout = "any"

    def setup(self) -> None:
        """The top is as large as the bottom; fields are read by :meth:`read_fields`."""
        self.top_shapes = [self.bottom_shapes[0]]
        self.read_fields()

    def read_fields(self) -> None:
        """Read and check the layer's own fields."""

    def apply(self, x: Array) -> Array:
        """The function."""
        raise NotImplementedError

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """Apply the function to the bottom."""
        return [self.apply(bottoms[0])]


def absolute(x: Array) -> Array:
    """``|x|`` with a gradient of 0 where ``x`` is 0, where that of ``jnp.abs`` is 1."""
    return x * lax.stop_gradient(jnp.sign(x))


@register("AbsVal")
class AbsVal(_Elementwise):
    """``y = |x|``; the gradient at 0 is 0."""

    def apply(self, x: Array) -> Array:
        """``|x|``."""
        return absolute(x)


@register("BNLL")
class BNLL(_Elementwise):
    """``y = log(1 + exp(x))``, computed without overflow (binomial normal log likelihood)."""

    def apply(self, x: Array) -> Array:
        """``log(1 + exp(x))``."""
        return jax.nn.softplus(x)


@register("Clip")
class Clip(_Elementwise):
    """``y = min(max(x, min), max)``; the gradient passes where ``min <= x <= max``, both bounds included."""

    def read_fields(self) -> None:
        """Read the bounds.

        Raises:
            NetError: where a bound is missing, or they are the wrong way round.
        """
        param = self.param.clip_param
        if not (param.HasField("min") and param.HasField("max")):
            self.fail("clip_param needs both min and max.")
        self.low, self.high = param.min, param.max
        if self.low > self.high:
            self.fail(f"clip_param min (={self.low:g}) must not be above max (={self.high:g}).")

    def apply(self, x: Array) -> Array:
        """``min(max(x, low), high)``."""
        # not jnp.clip: it halves the gradient at the bounds
        below = jnp.where(x < self.low, jnp.asarray(self.low, x.dtype), x)
        return jnp.where(x > self.high, jnp.asarray(self.high, x.dtype), below)


@register("ELU")
class ELU(_Elementwise):
    """``y = x`` where ``x > 0``, else ``alpha (exp(x) - 1)`` (Clevert et al. 2015)."""

    def read_fields(self) -> None:
        """Read ``alpha``."""
        self.alpha = self.param.elu_param.alpha

    def apply(self, x: Array) -> Array:
        """``x`` or ``alpha (exp(x) - 1)``."""
        # the inner choice keeps exp finite where its value is not used, so that no NaN reaches the gradient
        negative = jnp.where(x > 0, jnp.zeros_like(x), x)
        return jnp.where(x > 0, x, self.alpha * jnp.expm1(negative))


def _log_base(layer: Layer, base: float) -> float:
    """Natural logarithm of ``base``; -1 stands for e.

    Raises:
        NetError: where the base is not positive.
    """
    if base == -1.0:
        return 1.0
    if base <= 0:
        layer.fail(f"base (={base:g}) must be positive, or -1 for e.")
    return math.log(base)


@register("Exp")
class Exp(_Elementwise):
    """``y = base^(shift + scale x)``; base -1 stands for e."""

    arithmetic = "float32"

    def read_fields(self) -> None:
        """Fold base, scale and shift into ``y = outer exp(inner x)``."""
        param = self.param.exp_param
        log_base = _log_base(self, param.base)
        self.inner = param.scale * log_base
        try:
            self.outer = math.exp(param.shift * log_base)
        except OverflowError:
            self.fail(f"base^shift (base {param.base:g}, shift {param.shift:g}) is too large for a number.")

    def apply(self, x: Array) -> Array:
        """``outer exp(inner x)``."""
        return self.outer * jnp.exp(self.inner * x)


@register("Log")
class Log(_Elementwise):
    """``y = log_base(shift + scale x)``; base -1 stands for e. NaN where the argument is negative, as in Caffe."""

    arithmetic = "float32"

    def read_fields(self) -> None:
        """Read base, scale and shift.

        Raises:
            NetError: for a base of 1, whose logarithm divides by zero, or one that is not positive.
        """
        param = self.param.log_param
        log_base = _log_base(self, param.base)
        if log_base == 0.0:
            self.fail("base must not be 1: the logarithm to base 1 does not exist.")
        self.factor = 1.0 / log_base
        self.scale, self.shift = param.scale, param.shift

    def apply(self, x: Array) -> Array:
        """``log(shift + scale x) / log(base)``."""
        return self.factor * jnp.log(self.scale * x + self.shift)


@register("PReLU")
class PReLU(Layer):
    """``y = x`` where ``x > 0``, else ``slope x`` with a learned slope a channel (He et al. 2015).

    Its weight is the slopes: shape (C,), or () with ``channel_shared``; they start at 0.25 unless ``filler`` is given.
    """

    arithmetic = "as_given"

    layout = "last"

    def setup(self) -> None:
        """State the slopes.

        Raises:
            NetError: where the bottom has no channel axis.
        """
        shape = self.bottom_shapes[0]
        if len(shape) < 2:
            self.fail(f"needs a bottom of 2 or more axes (channels are axis 1), not shape {shape}.")
        param = self.param.prelu_param
        default = caffe_pb2.FillerParameter(type="constant", value=0.25)
        filler = param.filler if param.HasField("filler") else default
        self.shared = param.channel_shared
        self.weights = [Weight(() if self.shared else (shape[1],), filler)]
        self.top_shapes = [shape]

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """Scale the values that are not positive; bottom (N, H, W, C), or (N, C, ...) of another rank."""
        x, slope = bottoms[0], weights[0].astype(bottoms[0].dtype)
        if self.shared:
            scaled = slope * x
        elif x.ndim in (2, 4):
            scaled = scale_channels(x, slope)
        else:
            scaled = lax.expand_dims(slope, [axis for axis in range(x.ndim) if axis != 1]) * x
        return [jnp.where(x > 0, x, scaled)]


@register("Swish")
class Swish(_Elementwise):
    """``y = x sigmoid(beta x)`` (Ramachandran et al. 2017)."""

    def read_fields(self) -> None:
        """Read ``beta``."""
        self.beta = self.param.swish_param.beta

    def apply(self, x: Array) -> Array:
        """``x sigmoid(beta x)``."""
        return x * jax.nn.sigmoid(self.beta * x)


@register("Threshold")
class Threshold(_Elementwise):
    """``y = 1`` where ``x > threshold``, else 0. It has no gradient."""

    no_gradient = (0,)

    def read_fields(self) -> None:
        """Read ``threshold``."""
        self.threshold = self.param.threshold_param.threshold

    def apply(self, x: Array) -> Array:
        """1 or 0, in the bottom's dtype."""
        return (x > self.threshold).astype(x.dtype)


__all__ = ["BNLL", "ELU", "AbsVal", "Clip", "Exp", "Log", "PReLU", "Swish", "Threshold", "absolute"]
