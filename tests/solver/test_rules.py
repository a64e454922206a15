"""Update rules: one contract for all six, against the formulas in NumPy with double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from google.protobuf import text_format

from cosdask.errors import SolverError
from cosdask.proto import caffe_pb2
from cosdask.solver import read_state
from cosdask.solver.rules import get_rule

Slots = list[np.ndarray]
Rule = Callable[[Any, np.ndarray, Slots, float, int], tuple[np.ndarray, Slots]]


def sgd(p: Any, g: np.ndarray, slots: Slots, rate: float, t: int) -> tuple[np.ndarray, Slots]:
    v = p.momentum * slots[0] + rate * g
    return v, [v]


def nesterov(p: Any, g: np.ndarray, slots: Slots, rate: float, t: int) -> tuple[np.ndarray, Slots]:
    v = p.momentum * slots[0] + rate * g
    return (1 + p.momentum) * v - p.momentum * slots[0], [v]


def adagrad(p: Any, g: np.ndarray, slots: Slots, rate: float, t: int) -> tuple[np.ndarray, Slots]:
    h = slots[0] + g**2
    return rate * g / (h**0.5 + p.delta), [h]


def rmsprop(p: Any, g: np.ndarray, slots: Slots, rate: float, t: int) -> tuple[np.ndarray, Slots]:
    h = p.rms_decay * slots[0] + (1 - p.rms_decay) * g**2
    return rate * g / (h**0.5 + p.delta), [h]


def adadelta(p: Any, g: np.ndarray, slots: Slots, rate: float, t: int) -> tuple[np.ndarray, Slots]:
    squares = p.momentum * slots[0] + (1 - p.momentum) * g**2
    change = g * ((slots[1] + p.delta) / (squares + p.delta)) ** 0.5
    return rate * change, [squares, p.momentum * slots[1] + (1 - p.momentum) * change**2]


def adam(p: Any, g: np.ndarray, slots: Slots, rate: float, t: int) -> tuple[np.ndarray, Slots]:
    m = p.momentum * slots[0] + (1 - p.momentum) * g
    v = p.momentum2 * slots[1] + (1 - p.momentum2) * g**2
    unbiased = (1 - p.momentum2**t) ** 0.5 / (1 - p.momentum**t)
    return rate * unbiased * m / (v**0.5 + p.delta), [m, v]


#: settings, slots and formula of each rule
RULES: dict[str, tuple[str, int, Rule]] = {
    "SGD": ("base_lr: 0.05 momentum: 0.9", 1, sgd),
    "Nesterov": ("base_lr: 0.05 momentum: 0.9", 1, nesterov),
    "AdaGrad": ("base_lr: 0.1 delta: 1e-6", 1, adagrad),
    "RMSProp": ("base_lr: 0.02 rms_decay: 0.9 delta: 1e-5", 1, rmsprop),
    "AdaDelta": ("base_lr: 1.0 momentum: 0.95 delta: 1e-6", 2, adadelta),
    "Adam": ("base_lr: 0.02 momentum: 0.9 momentum2: 0.99 delta: 1e-8", 2, adam),
}
#: what may stand around every rule
AROUND = {
    "plain": "",
    "L2": "weight_decay: 0.1",
    "L1": 'weight_decay: 0.1 regularization_type: "L1"',
    "clip": "clip_gradients: 0.2",
    "iter_size": "iter_size: 2",
    "all": "weight_decay: 0.05 clip_gradients: 0.5 iter_size: 3",
}
PARAMS = "param { lr_mult: 2 decay_mult: 0.5 } param { lr_mult: 0.5 decay_mult: 0 }"
MULTIPLIERS = {("ip1", 0): (2.0, 0.5), ("ip1", 1): (0.5, 0.0), ("ip2", 0): (1.0, 1.0), ("ip2", 1): (1.0, 1.0)}
Weights = dict[tuple[str, int], np.ndarray]


def weights_of(net: Any, params: Any) -> Weights:
    """float64 by (layer, position)."""
    blobs = net.to_blobs(params)
    return {(layer, i): array.astype(np.float64) for layer, arrays in blobs.items() for i, array in enumerate(arrays)}


def mean_gradient(solver: Any, gradient: Any, rows: tuple[np.ndarray, np.ndarray], iteration: int) -> Weights:
    """The gradient of an iteration, clipped as Caffe does: before it is divided by iter_size."""
    net, param = solver.net, solver.param
    total: Weights = {}
    for i in range(param.iter_size):
        first = (iteration * param.iter_size + i) * 4
        take = np.arange(first, first + 4) % len(rows[0])
        found = weights_of(net, gradient(net.params, {"x": rows[0][take], "y": rows[1][take]}))
        total = {key: total.get(key, 0) + array for key, array in found.items()}
    norm = sum((array**2).sum() for array in total.values()) ** 0.5
    if 0 < param.clip_gradients < norm:
        total = {key: array * param.clip_gradients / norm for key, array in total.items()}
    return {key: array / param.iter_size for key, array in total.items()}


@pytest.mark.parametrize(
    ("name", "around"),
    [(name, around) for name in RULES for around in AROUND if name == "SGD" or around in ("plain", "all")],
)
def test_every_rule_follows_its_formula(name: str, around: str, make_solver, rows) -> None:
    """Decay, clipping and iter_size around the rules, with lr_mult and decay_mult: 4 steps."""
    settings, slots, rule = RULES[name]
    solver = make_solver(f'type: "{name}" {settings} {AROUND[around]}', params=PARAMS)
    param, weights = solver.param, weights_of(solver.net, solver.net.params)
    net = solver.net
    gradient = jax.jit(jax.grad(lambda params, given: net.loss(params, given)[0]))
    history = {key: [np.zeros_like(array)] * slots for key, array in weights.items()}
    for t in range(1, 5):
        gradients = mean_gradient(solver, gradient, rows, t - 1)
        for key, weight in weights.items():
            lr_mult, decay_mult = MULTIPLIERS[key]
            toward = np.sign(weight) if param.regularization_type == "L1" else weight
            g = gradients[key] + param.weight_decay * decay_mult * toward
            change, history[key] = rule(param, g, history[key], param.base_lr * lr_mult, t)
            weights[key] = weight - change
        solver.step(1)
        for key, array in weights_of(solver.net, solver.net.params).items():
            # a rule divides by a root of what it has seen: rounding of tiny gradients shows more in it
            np.testing.assert_allclose(array, weights[key], rtol=2e-4, atol=2e-5, err_msg=f"{key} after {t}")
    solver.snapshot()
    saved = read_state("s_iter_4.solverstate").history
    wanted = [history[key][slot] for slot in range(slots) for key in weights]
    assert len(saved) == len(wanted) == slots * len(weights)
    for ours, array in zip(saved, wanted, strict=True):
        np.testing.assert_allclose(ours, array, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_frozen_weights_stay(name: str, make_solver) -> None:
    """lr_mult 0: not a bit changes, whatever rule, decay and history say."""
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 }"
    solver = make_solver(f'type: "{name}" {RULES[name][0]} weight_decay: 0.1', params=frozen)
    before = solver.net.to_blobs(solver.net.params)
    solver.step(3)
    after = solver.net.to_blobs(solver.net.params)
    for position in range(2):
        np.testing.assert_array_equal(before["ip1"][position], after["ip1"][position])
        assert np.any(before["ip2"][position] != after["ip2"][position])


def test_frozen_weights_with_a_history_go_on_moving_by_it(make_solver) -> None:
    """As in Caffe: a layer frozen after some steps still follows its momentum, whenever its state was restored."""
    settings = 'type: "SGD" base_lr: 0.05 momentum: 0.5'
    trained = make_solver(settings)
    trained.step(2)
    _, state = trained.snapshot()
    moved = trained.net.to_blobs(trained.net.params)["ip1"][0]
    speed = read_state(state).history[0].reshape(moved.shape)
    frozen = make_solver(settings, params="param { lr_mult: 0 } param { lr_mult: 0 }")
    frozen.step(1)
    frozen.restore(state)
    frozen.step(2)
    found = frozen.net.to_blobs(frozen.net.params)["ip1"][0]
    np.testing.assert_allclose(found, moved - 0.5 * speed - 0.25 * speed, rtol=1e-5, atol=1e-7)
    assert np.abs(found - moved).max() > 1e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('type: "Adm"', r'unknown solver type "Adm"\. Did you mean "Adam"'),
        ('type: "AdaGrad" momentum: 0.9', "cannot be used with AdaGrad"),
        ('type: "RMSProp" momentum: 0.9', "cannot be used with RMSProp"),
        ('type: "RMSProp" rms_decay: 1', r"rms_decay \(=1.0\) must be in \[0, 1\)"),
        ('type: "Adam" momentum: 1', r"Adam needs momentum \(=1\)"),
    ],
)
def test_settings_that_a_rule_cannot_take_are_refused(text: str, message: str) -> None:
    """Before any step."""
    with pytest.raises(SolverError, match=message):
        get_rule(text_format.Parse(text, caffe_pb2.SolverParameter()))


def test_an_unknown_regularization_is_refused(make_solver) -> None:
    """Known ones are named."""
    with pytest.raises(SolverError, match=r'unknown regularization_type "L3"\. Known: L1, L2'):
        make_solver('base_lr: 0.1 regularization_type: "L3"')
