"""Learning-rate policies: Caffe's formulas, and what Caffe counts as the current step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosdask.errors import SolverError
from cosdask.proto import caffe_pb2
from cosdask.solver import learning_rate
from cosdask.solver.policies import policy_step

FIELDS = {"base_lr": 0.25, "gamma": 0.5, "power": 0.75, "stepsize": 7, "max_iter": 100, "stepvalue": [5, 6, 30]}
#: the rate as a function of the iteration, written out once more
FORMULAS = {
    "fixed": lambda t: 0.25,
    "step": lambda t: 0.25 * 0.5 ** (t // 7),
    "exp": lambda t: 0.25 * 0.5**t,
    "inv": lambda t: 0.25 * (1 + 0.5 * t) ** -0.75,
    "multistep": lambda t: 0.25 * 0.5 ** sum(t >= value for value in (5, 6, 30)),
    "poly": lambda t: 0.25 * max(0.0, 1 - t / 100) ** 0.75,
    "sigmoid": lambda t: 0.25 / (1 + math.exp(-0.5 * (t - 7))),
}


def solver(policy: str, **fields: object) -> caffe_pb2.SolverParameter:
    return caffe_pb2.SolverParameter(lr_policy=policy, **{**FIELDS, **fields})


@pytest.mark.parametrize("policy", FORMULAS)
@given(iteration=st.integers(0, 150))
def test_the_rate_is_caffes_formula(policy: str, iteration: int) -> None:
    """All seven policies, before and after their steps, and past max_iter."""
    assert learning_rate(solver(policy), iteration) == pytest.approx(FORMULAS[policy](iteration), rel=1e-12)


def test_a_falling_sigmoid_ends_at_zero() -> None:
    """A negative gamma, far beyond the step, where exp overflows."""
    assert learning_rate(solver("sigmoid", gamma=-1.0), 10_000) == 0


@given(st.lists(st.integers(0, 20), max_size=5), st.integers(0, 30))
def test_multistep_takes_one_step_an_iteration(values: list[int], iteration: int) -> None:
    """Caffe looks at the next step value once an iteration: repeated values wait, values out of order count late."""
    step = 0
    for t in range(iteration + 1):
        if step < len(values) and t >= values[step]:
            step += 1
    assert policy_step(solver("multistep", stepvalue=values), iteration) == step


@pytest.mark.parametrize(
    ("policy", "fields", "message"),
    [
        ("stp", {}, r'unknown lr_policy "stp"\. Did you mean "step"\? Known: fixed, step'),
        ("", {}, "lr_policy is missing"),
        ("step", {"stepsize": 0}, "needs stepsize > 0"),
        ("poly", {"max_iter": 0}, "needs max_iter > 0"),
    ],
)
def test_policies_that_cannot_work_are_refused(policy: str, fields: dict, message: str) -> None:
    """A misspelled policy, and settings that it needs."""
    with pytest.raises(SolverError, match=message):
        learning_rate(solver(policy, **fields), 0)
