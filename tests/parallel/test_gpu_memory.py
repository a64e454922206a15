"""What a worker's own work leaves of its GPU to its rank; where there is no GPU, what JAX is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import pytest
from problems import Problem

import cosdask
from cosdask.parallel import evaluate, prepare, spares
from cosdask.parallel.contained import self_contained
from cosdask.parallel.gpu_memory import take_as_needed
from cosdask.parallel.plugins import dump_plugins
from cosdask.proto import read_solver, to_text

SETTING = "XLA_PYTHON_CLIENT_PREALLOCATE"


def test_a_worker_takes_memory_as_needed_and_its_rank_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user has set is the user's, for both."""
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name != SETTING})
    take_as_needed()
    assert os.environ[SETTING] == "false" and SETTING not in spares.environment(1)
    for value in ("false", "true"):
        monkeypatch.setattr(os, "environ", {SETTING: value})
        take_as_needed()
        assert os.environ[SETTING] == spares.environment(1)[SETTING] == value


def test_looking_at_nets_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch, problem: Callable[..., Problem]) -> None:
    """Weights are made and loaded there, and the next work is on the GPU again."""
    made = problem(rows=20, settings="max_iter: 4 test_interval: 2 test_iter: 2")
    devices: list[Any] = []

    def noting(function: Any) -> Any:
        return lambda *arguments: devices.append(jax.config.jax_default_device) or function(*arguments)  # type: ignore[attr-defined]

    monkeypatch.setattr(prepare, "train_net", noting(prepare.train_net))
    monkeypatch.setattr(prepare, "test_nets", noting(prepare.test_nets))
    monkeypatch.setattr(evaluate, "test_nets", noting(evaluate.test_nets))
    solver = to_text(self_contained(read_solver(str(made.solver)), str(made.solver), made.model))
    prepare.inspect_training(solver, None, True, "", "", {}, dump_plugins())
    cosdask.Net(str(made.folder / "net.prototxt"), phase="TEST").save(made.model)
    evaluate.inspect_test(solver, made.model, None, {}, dump_plugins(), "float32")
    assert len(devices) >= 2 and set(devices) == {jax.local_devices(backend="cpu")[0]}
    assert jax.config.jax_default_device is None  # type: ignore[attr-defined]
