"""What more workers do to batch and learning rate, and gradients in fewer bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest_parallel import Listener, config
from distributed import Client
from problems import Problem

import cosdask
from cosdask.errors import ConfigError
from cosdask.events import Progress, RunStarted


def test_a_global_batch_is_divided_among_the_workers(client: Client, problem: Callable[..., Problem]) -> None:
    """The effective batch is the prototxt's; one that cannot be divided is refused before anything starts."""
    made = problem(batch=6, settings="max_iter: 2 display: 1")
    listener = Listener()
    cosdask.CaffeOnDask(client, config(made, batch_is_global=True), consumers=[listener]).train()
    (started,) = listener.of(RunStarted)
    assert (started.batch_per_device, started.effective_batch) == (3, 6)
    with pytest.raises(ConfigError, match=r'batch_size 6 of layer "data" cannot be divided among 4'):
        cosdask.CaffeOnDask(client, config(made, batch_is_global=True, clusterSize=2, devices=2)).train()


def test_a_scaled_rate_warms_up_and_half_the_bits_give_nearly_the_same(
    client: Client, problem: Callable[..., Problem]
) -> None:
    """Linear scaling: from the prototxt's rate to twice that; bfloat16 on the wire moves weights by rounding."""
    made = problem(settings="max_iter: 13 display: 1")
    listener = Listener()
    options = {"scale_lr": "linear", "warmup": 4}
    whole = cosdask.CaffeOnDask(client, config(made, **options), consumers=[listener]).train().params
    rates = {event.iteration: event.lr for event in listener.of(Progress) if event.rank == 0}
    plain = {i: 0.05 * (1 + 0.01 * i) ** -0.75 for i in (0, 2, 4, 12)}
    assert [rates[i] / plain[i] for i in plain] == pytest.approx([1, 1.5, 2, 2], rel=1e-5)
    last = listener.of(Progress)[-1]
    assert last.communication_share > 0
    assert last.input_share + last.compute_share + last.communication_share == pytest.approx(1)
    assert last.memory > 1e7
    short = cosdask.CaffeOnDask(client, config(made, **options, wire="bfloat16", overwrite=True)).train()
    for name, blobs in whole.items():
        for exact, near in zip(blobs, short.params[name], strict=True):
            np.testing.assert_allclose(near, exact, atol=0.02 * np.abs(exact).max())
    assert any((short.params[name][0] != blobs[0]).any() for name, blobs in whole.items())
