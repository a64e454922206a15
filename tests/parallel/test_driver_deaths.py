"""Nothing that a run needs is only in its client or its scheduler: both may die, and ``resume`` makes the run whole."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest_parallel import DEADLINE, Listener, assert_same, config, rank_processes, start_client
from distributed import Client
from problems import make_problem

import cosdask
from cosdask.events import RunStarted
from cosdask.parallel import link
from cosdask.storage import RunFolder


def test_a_new_client_takes_the_run_up(cluster_process: Any, tmp_path: Path) -> None:
    """kill -9 of the client; the next one need not wait until the ranks have noticed."""
    made = make_problem(tmp_path / "problem", settings="max_iter: 300 snapshot: 20")
    with start_client(cluster_process, made) as first:
        first.kill()
    with Client(cluster_process.address, set_as_default=False) as client:
        listener = Listener()
        found = cosdask.CaffeOnDask(client, config(made, resume=True), consumers=[listener]).train()
        (started,) = listener.of(RunStarted)
        assert started.start_iteration > 0
        assert found.iterations == 300
        whole = cosdask.CaffeOnDask(client, config(made, overwrite=True)).train()
    assert_same(found.params, whole.params)


def test_a_lost_scheduler_ends_the_run_with_the_remedy(cluster_process: Any, client: Client, tmp_path: Path) -> None:
    """kill -9 of scheduler and nannies: the client says so in time, no rank is left, another cluster goes on."""
    made = make_problem(tmp_path / "problem", settings="max_iter: 700 snapshot: 50")
    with start_client(cluster_process, made) as first:
        ranks = rank_processes(cluster_process.pid)
        assert len(ranks) == 2
        cluster_process.kill()
        _, error = first.communicate(timeout=DEADLINE)
    assert first.returncode == 1, error.decode()
    assert b"--resume" in error
    assert not psutil.wait_procs(ranks, timeout=30)[1]
    reasons = [event.get("message", "") for event in RunFolder(made.folder / "out" / "small.run").read_events()]
    assert any("scheduler" in reason for reason in reasons)
    found = cosdask.CaffeOnDask(client, config(made, resume=True, clusterSize=2)).train()
    whole = cosdask.CaffeOnDask(client, config(made, overwrite=True, clusterSize=2)).train()
    assert_same(found.params, whole.params)


@pytest.mark.long
def test_a_client_that_stood_still_goes_on_by_itself(cluster_process: Any, tmp_path: Path) -> None:
    """As a computer that slept: the ranks have left a snapshot and gone, and the client forms the next group."""
    made = make_problem(tmp_path / "problem", settings="max_iter: 10000 snapshot: 200")

    def forget_soon() -> None:  # in here, so that it travels as it is: workers do not have this module
        link.CLIENT_GONE = 12.0

    with Client(cluster_process.address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=DEADLINE)
        client.run(forget_soon)
        folder = RunFolder(made.folder / "out" / "small.run")
        with start_client(cluster_process, made) as first:
            os.kill(first.pid, signal.SIGSTOP)
            ranks = [process for process in rank_processes(cluster_process.pid) if "rank" in process.name()]
            assert not psutil.wait_procs(ranks, timeout=DEADLINE)[1]
            *_, last = folder.read_events()
            assert (last["kind"], last["status"], last["message"]) == ("run_ended", "stopped", "the client was gone")
            os.kill(first.pid, signal.SIGCONT)
            _, error = first.communicate(timeout=DEADLINE)
        assert first.returncode == 0, error.decode()
        events = list(folder.read_events())
        (restart,) = (event for event in events if event["kind"] == "restarted")
        assert "heard nothing of this client" in restart["reason"]
        assert restart["iteration"] == last["iteration"] > 0
        assert events[-1]["kind"] == "run_ended" and events[-1]["status"] == "done"
        net = cosdask.Net(str(made.folder / "net.prototxt"), phase="TRAIN", weights=made.model)
        found = net.to_blobs(net.params)
        whole = cosdask.CaffeOnDask(client, config(made, overwrite=True)).train()
    assert_same(found, whole.params)
