"""Caffe's learning-rate policies: the rate as a function of the iteration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cosdask.errors import SolverError, did_you_mean
from cosdask.proto import caffe_pb2

Param = caffe_pb2.SolverParameter


def learning_rate(param: Param, iteration: int) -> float:
    """The learning rate of an iteration, before ``lr_mult``.

    ==========  ===================================================================
    fixed       base_lr
    step        base_lr * gamma ^ floor(iteration / stepsize)
    exp         base_lr * gamma ^ iteration
    inv         base_lr * (1 + gamma * iteration) ^ -power
    multistep   base_lr * gamma ^ (number of stepvalues reached)
    poly        base_lr * (1 - iteration / max_iter) ^ power
    sigmoid     base_lr / (1 + exp(-gamma * (iteration - stepsize)))
    ==========  ===================================================================

    Raises:
        SolverError: for an unknown policy, or one that lacks a setting.

    Example:
        >>> param = Param(base_lr=0.5, lr_policy="step", gamma=0.5, stepsize=10)
        >>> [learning_rate(param, i) for i in (0, 9, 10, 20)]
        [0.5, 0.5, 0.25, 0.125]
    """
    policy = POLICIES.get(param.lr_policy)
    if policy is None:
        given = f'unknown lr_policy "{param.lr_policy}".' if param.lr_policy else "lr_policy is missing."
        raise SolverError(f"{given}{did_you_mean(param.lr_policy, POLICIES)} Known: {', '.join(POLICIES)}.")
    return policy(param, iteration)


def policy_step(param: Param, iteration: int) -> int:
    """Number of steps the rate has taken: ``current_step`` of Caffe's solver state."""
    if param.lr_policy == "step":
        return iteration // _stepsize(param)
    if param.lr_policy == "multistep":
        return _steps_reached(param.stepvalue, iteration)
    return 0


def _steps_reached(stepvalues: Sequence[int], iteration: int) -> int:
    """How many step values have been taken, one an iteration at most and in the order given, as in Caffe."""
    reached, earliest = 0, 0
    for value in stepvalues:
        taken = max(value, earliest)
        if taken > iteration:
            break
        reached, earliest = reached + 1, taken + 1
    return reached


def _stepsize(param: Param) -> int:
    if param.stepsize <= 0:
        raise SolverError(f"lr_policy {param.lr_policy} needs stepsize > 0, not {param.stepsize}.")
    return param.stepsize


def _poly(param: Param, iteration: int) -> float:
    if param.max_iter <= 0:
        raise SolverError("lr_policy poly needs max_iter > 0.")
    # past max_iter the base would be negative; the rate stays at 0 there
    return float(param.base_lr * max(0.0, 1.0 - iteration / param.max_iter) ** param.power)


def _sigmoid(param: Param, iteration: int) -> float:
    exponent = -param.gamma * (iteration - param.stepsize)
    # exp overflows far beyond the step; the rate is 0 there
    return float(param.base_lr / (1.0 + math.exp(exponent))) if exponent < 700 else 0.0


POLICIES: dict[str, Callable[[Param, int], float]] = {
    "fixed": lambda param, iteration: param.base_lr,
    "step": lambda param, iteration: param.base_lr * param.gamma ** policy_step(param, iteration),
    "exp": lambda param, iteration: param.base_lr * param.gamma**iteration,
    "inv": lambda param, iteration: param.base_lr * (1.0 + param.gamma * iteration) ** -param.power,
    "multistep": lambda param, iteration: param.base_lr * param.gamma ** policy_step(param, iteration),
    "poly": _poly,
    "sigmoid": _sigmoid,
}
