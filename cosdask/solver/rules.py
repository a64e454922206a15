"""Caffe's update rules: from a gradient to the change of a weight, one weight at a time.

Every rule takes the regularized gradient ``g`` and the local rate ``r`` (learning rate times ``lr_mult``) and returns
what is subtracted from the weight, and its history ("slots", in the order in which Caffe's solver state keeps them).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp

from cosdask.errors import SolverError, did_you_mean
from cosdask.nn.layer import Array
from cosdask.proto import caffe_pb2

Param = caffe_pb2.SolverParameter
Slots = tuple[Array, ...]
Update = Callable[[Param, Array, Slots, Array, Array], tuple[Array, Slots]]


@dataclass(frozen=True)
class Rule:
    """An update rule: how many history blobs a weight has, and the change of a step.

    ``update(param, g, slots, r, c)`` returns ``(change, slots)``; ``c`` is :func:`bias_correction`, float32.
    """

    slots: int
    update: Update


def bias_correction(param: Param, iteration: int) -> float:
    """Adam's bias correction ``sqrt(1 - momentum2^t) / (1 - momentum^t)`` with t = iteration + 1; 1 for other rules.

    Computed on the host in double precision: in float32 the difference ``1 - momentum2^t`` loses digits at first, and
    powers differ between devices.

    Example:
        >>> bias_correction(Param(type="Adam", momentum=0.5, momentum2=0.75), 0)
        1.0
    """
    if param.type != "Adam":
        return 1.0
    t = iteration + 1
    return math.sqrt(1.0 - param.momentum2**t) / (1.0 - param.momentum**t)


def _sgd(param: Param, g: Array, slots: Slots, r: Array, c: Array) -> tuple[Array, Slots]:
    """With momentum: v = momentum v + r g; w -= v (the rate is inside of v, unlike in PyTorch)."""
    (v,) = slots
    v = jnp.float32(param.momentum) * v + r * g
    return v, (v,)


def _nesterov(param: Param, g: Array, slots: Slots, r: Array, c: Array) -> tuple[Array, Slots]:
    """Nesterov 1983, in Sutskever's form: v' = momentum v + r g; w -= (1 + momentum) v' - momentum v."""
    (v,) = slots
    momentum = jnp.float32(param.momentum)
    after = momentum * v + r * g
    return (1 + momentum) * after - momentum * v, (after,)


def _adagrad(param: Param, g: Array, slots: Slots, r: Array, c: Array) -> tuple[Array, Slots]:
    """Duchi et al. 2011: h += g^2; w -= r g / (sqrt(h) + delta)."""
    (h,) = slots
    h = h + g * g
    return r * g / (jnp.sqrt(h) + jnp.float32(param.delta)), (h,)


def _rmsprop(param: Param, g: Array, slots: Slots, r: Array, c: Array) -> tuple[Array, Slots]:
    """Tieleman and Hinton 2012: h = d h + (1 - d) g^2 with d = rms_decay; w -= r g / (sqrt(h) + delta)."""
    (h,) = slots
    decay = jnp.float32(param.rms_decay)
    h = decay * h + (1 - decay) * g * g
    return r * g / (jnp.sqrt(h) + jnp.float32(param.delta)), (h,)


def _adadelta(param: Param, g: Array, slots: Slots, r: Array, c: Array) -> tuple[Array, Slots]:
    """Zeiler 2012, the momentum field being the decay and the rate scaling the change."""
    squares, changes = slots
    decay, delta = jnp.float32(param.momentum), jnp.float32(param.delta)
    squares = decay * squares + (1 - decay) * g * g
    change = g * jnp.sqrt((changes + delta) / (squares + delta))
    changes = decay * changes + (1 - decay) * change * change
    return r * change, (squares, changes)


def _adam(param: Param, g: Array, slots: Slots, r: Array, c: Array) -> tuple[Array, Slots]:
    """Kingma and Ba 2015 with beta1 = momentum, beta2 = momentum2, epsilon = delta outside of the root."""
    m, v = slots
    beta1, beta2 = jnp.float32(param.momentum), jnp.float32(param.momentum2)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    return r * c * m / (jnp.sqrt(v) + jnp.float32(param.delta)), (m, v)


RULES: dict[str, Rule] = {
    "SGD": Rule(1, _sgd),
    "Nesterov": Rule(1, _nesterov),
    "AdaGrad": Rule(1, _adagrad),
    "RMSProp": Rule(1, _rmsprop),
    "AdaDelta": Rule(2, _adadelta),
    "Adam": Rule(2, _adam),
}


def get_rule(param: Param) -> Rule:
    """The rule that a solver names.

    Raises:
        SolverError: for an unknown type, or settings that Caffe refuses for it.
    """
    rule = RULES.get(param.type)
    if rule is None:
        raise SolverError(f'unknown solver type "{param.type}".{did_you_mean(param.type, RULES)}')
    if param.type in ("AdaGrad", "RMSProp") and param.momentum:
        raise SolverError(f"momentum (={param.momentum}) cannot be used with {param.type}; leave it out.")
    if param.type == "Adam" and not (0 <= param.momentum < 1 and 0 <= param.momentum2 < 1):
        raise SolverError(
            f"Adam needs momentum (={param.momentum:g}) and momentum2 (={param.momentum2:g}) in [0, 1): "
            "with 1 its averages never take in a gradient."
        )
    if param.type == "RMSProp" and not 0 <= param.rms_decay < 1:
        raise SolverError(f"rms_decay (={param.rms_decay}) must be in [0, 1).")
    return rule
