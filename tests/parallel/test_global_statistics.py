"""Workers that share BatchNorm's statistics and the loss's count do what one process with as many ranks does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest_parallel import config
from distributed import Client
from problems import BATCH_NORM, Problem
from test_equality import assert_close

import cosdask


@pytest.mark.slow
def test_three_workers_share_as_three_ranks_do(client: Client, problem: Callable[..., Problem]) -> None:
    """Invariant 2 with its options; ``tests/solver`` shows that such ranks are one rank of a larger batch."""
    made = problem(settings="max_iter: 8", middle=BATCH_NORM)
    options = {"global_batch_norm": True, "global_loss": True}
    result = cosdask.CaffeOnDask(client, config(made, **options, clusterSize=None)).train()
    with cosdask.Solver(made.solver, ranks=3, **options) as solver:
        solver.step(8)
        assert_close(result.net, solver.net, 1e-4)
    with cosdask.Solver(made.solver, ranks=3) as apart:
        apart.step(8)
        with pytest.raises(AssertionError):
            assert_close(result.net, apart.net, 1e-4)
