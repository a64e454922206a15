"""Caffe's update rules: from a gradient to the change of a weight, one weight at a time.

Every rule takes the regularized gradient ``g`` and the local rate ``r`` (learning rate times ``lr_mult``) and returns
what is subtracted from the weight, and its history ("slots", in the order in which Caffe's solver state keeps them).
"""

from __future__ import annotations

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

    ``update(param, g, slots, r, t)`` returns ``(change, slots)``; ``t`` is the number of the step, from 1, float32.
    """

    slots: int
    update: Update


def _sgd(param: Param, g: Array, slots: Slots, r: Array, t: Array) -> tuple[Array, Slots]:
    """v = momentum v + r g; w -= v (the rate is inside the momentum, unlike in PyTorch)."""
    (v,) = slots
    v = jnp.float32(param.momentum) * v + r * g
    return v, (v,)


def _nesterov(param: Param, g: Array, slots: Slots, r: Array, t: Array) -> tuple[Array, Slots]:
    """v' = momentum v + r g; w -= (1 + momentum) v' - momentum v (Nesterov 1983, in Sutskever's form)."""
    (v,) = slots
    momentum = jnp.float32(param.momentum)
    after = momentum * v + r * g
    return (1 + momentum) * after - momentum * v, (after,)


def _adagrad(param: Param, g: Array, slots: Slots, r: Array, t: Array) -> tuple[Array, Slots]:
    """h += g^2; w -= r g / (sqrt(h) + delta) (Duchi et al. 2011)."""
    (h,) = slots
    h = h + g * g
    return r * g / (jnp.sqrt(h) + jnp.float32(param.delta)), (h,)


def _rmsprop(param: Param, g: Array, slots: Slots, r: Array, t: Array) -> tuple[Array, Slots]:
    """h = d h + (1 - d) g^2, d = rms_decay; w -= r g / (sqrt(h) + delta) (Tieleman and Hinton 2012)."""
    (h,) = slots
    decay = jnp.float32(param.rms_decay)
    h = decay * h + (1 - decay) * g * g
    return r * g / (jnp.sqrt(h) + jnp.float32(param.delta)), (h,)


def _adadelta(param: Param, g: Array, slots: Slots, r: Array, t: Array) -> tuple[Array, Slots]:
    """Zeiler 2012, the momentum field being the decay and the rate scaling the change."""
    squares, changes = slots
    decay, delta = jnp.float32(param.momentum), jnp.float32(param.delta)
    squares = decay * squares + (1 - decay) * g * g
    change = g * jnp.sqrt((changes + delta) / (squares + delta))
    changes = decay * changes + (1 - decay) * change * change
    return r * change, (squares, changes)


def _adam(param: Param, g: Array, slots: Slots, r: Array, t: Array) -> tuple[Array, Slots]:
    """Kingma and Ba 2015 with beta1 = momentum, beta2 = momentum2, epsilon = delta outside of the root."""
    m, v = slots
    beta1, beta2 = jnp.float32(param.momentum), jnp.float32(param.momentum2)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    correction = jnp.sqrt(1 - beta2**t) / (1 - beta1**t)
    return r * correction * m / (jnp.sqrt(v) + jnp.float32(param.delta)), (m, v)


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
    if param.type == "RMSProp" and not 0 <= param.rms_decay < 1:
        raise SolverError(f"rms_decay (={param.rms_decay}) must be in [0, 1).")
    return rule
