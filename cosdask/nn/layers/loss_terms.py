"""What several loss layers share: Caffe's normalizers, and logarithms kept away from zero as Caffe keeps them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cosdask.nn.layer import Array
from cosdask.nn.shared import is_shared, mean_over_ranks
from cosdask.proto import caffe_pb2

#: Caffe's loss layers take no logarithm of a smaller probability
SMALLEST_PROBABILITY = 1e-20


def normalizer(mode: int, outer: int, inner: int, valid: Array) -> Array:
    """What a summed loss is divided by; never less than 1.

    Args:
        mode: a ``LossParameter.NormalizationMode``.
        outer: number of samples.
        inner: labels a sample.
        valid: scalar, the number of labels that are not ignored; its mean over ranks where they share it
            (:mod:`cosdask.nn.shared`).
    """
    modes = caffe_pb2.LossParameter
    if mode == modes.VALID:
        counted = valid.astype(jnp.float32)
        if is_shared("loss"):  # a rank's share of all labels may well be less than one label
            mean = mean_over_ranks(counted, "loss")
            return jnp.where(mean > 0, mean, jnp.ones_like(mean))
        return jnp.maximum(counted, 1.0)
    fixed = outer * inner if mode == modes.FULL else outer if mode == modes.BATCH_SIZE else 1
    return jnp.float32(max(fixed, 1))


def class_ids(label: Array) -> Array:
    """Labels (numbers of any dtype) as int32 class ids; no gradient flows to them."""
    return jax.lax.stop_gradient(label).astype(jnp.int32)


@jax.custom_jvp
def clamped_log(probability: Array) -> Array:
    """``log(max(p, 1e-20))`` with Caffe's gradient, ``1 / max(p, 1e-20)``, also where it is clamped."""
    return jnp.log(jnp.maximum(probability, SMALLEST_PROBABILITY))


@clamped_log.defjvp
def _clamped_log_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (probability,), (tangent,) = primals, tangents
    return clamped_log(probability), tangent / jnp.maximum(probability, SMALLEST_PROBABILITY)


__all__ = ["SMALLEST_PROBABILITY", "clamped_log", "class_ids", "normalizer"]
