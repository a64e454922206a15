"""Invariant 5: a death costs seconds, never the run, and the weights are those of the undisturbed run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest_parallel import config, ranks_alive
from distributed import Client
from problems import Problem, make_problem
from test_driver import Listener

import cosdask
from cosdask.events import Progress, Restarted, RunStarted, Snapshot

SETTINGS = "max_iter: 60 snapshot: 20 display: 1"


def kill_a_rank(number: int) -> Callable[[], None]:
    """End a rank's process without warning."""

    def act() -> None:
        found = {process.name(): process for process in ranks_alive()}
        found[f"cosdask-rank-{number}"].kill()

    return act


def kill_all() -> None:
    """End every rank without warning."""
    for process in ranks_alive():
        process.kill()


def kill_a_worker(client: Client) -> Callable[[], None]:
    """End a whole worker without warning; its nanny brings another."""
    address = next(iter(client.scheduler_info(n_workers=-1)["workers"]))
    pid = client.run(os.getpid, workers=[address])[address]
    return lambda: os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def undisturbed(cluster: cosdask.LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Problem, Any]:
    """A problem and the weights that it ends with where nothing happens."""
    made = make_problem(tmp_path_factory.mktemp("deaths") / "problem", settings=SETTINGS)
    with Client(cluster, set_as_default=False) as connected:
        return made, cosdask.CaffeOnDask(connected, config(made)).train().params


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
def test_a_death_changes_nothing_but_time(
    client: Client, undisturbed: tuple[Problem, Any], tmp_path: Path, victim: str, moment: type
) -> None:
    """The new group goes on from the newest whole snapshot, or from the start where there is none yet."""
    made, whole = undisturbed
    acts = {"worker": kill_a_worker, "all": lambda _: kill_all}
    act = acts[victim](client) if victim in acts else kill_a_rank(int(victim[-1]))
    listener = Listener(moment, act)
    settings = config(made, model=str(tmp_path / "small.caffemodel"))
    result = cosdask.CaffeOnDask(client, settings, consumers=[listener]).train()
    assert result.status == "done"
    restarts = listener.of(Restarted)
    assert len(restarts) == 1, restarts
    (restart,) = restarts
    assert "worker" in restart.reason if victim == "worker" else "SIGKILL" in restart.reason
    assert restart.iteration == (20 if moment is Snapshot else 0)
    for name, blobs in whole.items():
        for mine, other in zip(result.params[name], blobs, strict=True):
            np.testing.assert_array_equal(mine, other)
