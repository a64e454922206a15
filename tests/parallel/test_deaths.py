"""Invariant 5: a death costs seconds, never the run, and the weights are those of the undisturbed run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from conftest_parallel import Train, assert_same, rank, ranks_alive
from distributed import Client

from cosdask.events import Progress, Restarted, RunStarted, Snapshot


def kill_all() -> None:
    """End every rank without warning."""
    for process in ranks_alive():
        process.kill()


def kill_a_worker(client: Client) -> Callable[[], None]:
    """End a whole worker without warning; its nanny brings another."""
    address = next(iter(client.scheduler_info(n_workers=-1)["workers"]))
    pid = client.run(os.getpid, workers=[address])[address]
    return lambda: os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("moment", "victim"),
    [
        pytest.param(RunStarted, "rank 0", id="in the first compile-rank 0", marks=pytest.mark.long),
        pytest.param(RunStarted, "worker", id="in the first compile-worker", marks=pytest.mark.long),
        pytest.param(Progress, "rank 0", id="in a step-rank 0"),
        pytest.param(Progress, "all", id="in a step-all", marks=pytest.mark.long),
        pytest.param(Progress, "rank 2", id="in a step-rank 2", marks=pytest.mark.long),
        pytest.param(Progress, "worker", id="in a step-worker"),
        pytest.param(Snapshot, "rank 0", id="after a snapshot-rank 0"),
        pytest.param(Snapshot, "rank 2", id="after a snapshot-rank 2", marks=pytest.mark.long),
        pytest.param(Snapshot, "worker", id="after a snapshot-worker", marks=pytest.mark.long),
    ],
)
def test_a_death_changes_nothing_but_time(client: Client, train: Train, whole: Any, victim: str, moment: type) -> None:
    """The new group goes on from the newest whole snapshot, or from the start where there is none yet."""
    acts = {"worker": kill_a_worker, "all": lambda _: kill_all}
    result = train(moment, acts[victim](client) if victim in acts else lambda: rank(int(victim[-1])).kill())
    assert result.status == "done"
    restarts = train.of(Restarted)
    assert len(restarts) == 1, restarts
    (restart,) = restarts
    assert "worker" in restart.reason if victim == "worker" else "SIGKILL" in restart.reason
    assert restart.iteration == (15 if moment is Snapshot else 0)
    assert_same(result.params, whole)
