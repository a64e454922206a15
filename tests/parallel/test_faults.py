"""Invariants 5 to 7 for faults that need more preparing: in a write, in the rendezvous, of a whole node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest_parallel import Listener, Train, assert_same, config, rank, rank_processes
from distributed import Client
from problems import make_problem

import cosdask
from cosdask.events import Event, Progress, Restarted, Snapshot


def as_soon_as(found: Callable[[], object], act: Callable[[], object]) -> threading.Thread:
    """Act in a thread once something is there; looks often, for two minutes at most."""

    def wait() -> None:
        pause, until = threading.Event(), time.monotonic() + 120
        while time.monotonic() < until:
            if found():
                act()
                return
            pause.wait(0.0005)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.long
def test_a_death_in_the_middle_of_a_snapshot_leaves_no_part_of_it(client: Client, tmp_path: Path) -> None:
    """The half file is never read, and gone afterwards; so is every temporary file."""
    made = make_problem(tmp_path / "problem", settings="max_iter: 12 snapshot: 1 display: 1")
    whole = Train(client, made, tmp_path / "whole" / "small.caffemodel")().params
    folder = tmp_path / "out"
    folder.mkdir()
    train = Train(client, made, folder / "small.caffemodel")

    def part_of_a_later_snapshot() -> bool:
        return any(name.endswith(".part") and "iter_1." not in name for name in os.listdir(folder))

    killers: list[threading.Thread] = []
    result = train(Snapshot, lambda: killers.append(as_soon_as(part_of_a_later_snapshot, lambda: rank(0).kill())))
    killers[0].join(60)
    (restart,) = train.of(Restarted)
    assert "SIGKILL" in restart.reason and restart.iteration > 0
    assert_same(result.params, whole)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.long
def test_a_rank_that_does_not_come_to_the_rendezvous_is_named(client: Client, train: Train, whole: Any) -> None:
    """Invariant 6: the others wait for ``worker_deadline`` seconds, the history says for whom; the next group comes."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    (address,) = (address for address, worker in workers.items() if worker["name"] == 1)
    pid = client.run(os.getpid, workers=[address])[address]
    # started before there is a job, it is still loading when it is stopped
    stopper = as_soon_as(lambda: rank_processes(pid), lambda: rank_processes(pid)[0].suspend())
    result = train(worker_deadline=8)
    stopper.join(60)
    (restart,) = train.of(Restarted)
    assert "rank 1 at 127.0.0.1 (worker 1) did not come; rank 0 at 127.0.0.1" in restart.reason
    assert_same(result.params, whole)


@pytest.mark.parametrize("seconds", [3, pytest.param(45, marks=pytest.mark.long)])
def test_a_rank_that_is_stopped_for_a_while_only_takes_longer(train: Train, whole: Any, seconds: int) -> None:
    """SIGSTOP for less than ``rank_silence``: nobody is ended, no group anew."""

    def stop_for_a_while() -> None:
        stopped = rank(1)
        stopped.suspend()
        threading.Timer(seconds, stopped.resume).start()

    result = train(Progress, stop_for_a_while)
    assert not train.of(Restarted)
    assert_same(result.params, whole)


@pytest.mark.long
def test_a_rank_that_is_stopped_for_a_minute_is_ended_as_hung(train: Train, whole: Any) -> None:
    """SIGSTOP for longer than the default ``rank_silence``: ended after half a minute, named, and made up for."""
    result = train(Progress, lambda: rank(1).suspend(), rank_silence=30)
    (restart,) = train.of(Restarted)
    assert "rank 1 at 127.0.0.1" in restart.reason and "no sign of life" in restart.reason
    assert_same(result.params, whole)


@pytest.mark.long
def test_a_worker_that_hangs_is_started_again(client: Client, train: Train, whole: Any) -> None:
    """SIGSTOP of the Dask worker itself: no heartbeat for ``worker_silence`` seconds, then its nanny ends it."""
    address = sorted(client.scheduler_info(n_workers=-1)["workers"])[1]
    pid = client.run(os.getpid, workers=[address])[address]
    result = train(Progress, lambda: os.kill(pid, signal.SIGSTOP), worker_silence=8)
    (restart,) = train.of(Restarted)
    assert "has sent no heartbeat" in restart.reason
    assert_same(result.params, whole)
    assert not psutil.pid_exists(pid)


def start_node(address: str, folder: Path) -> subprocess.Popen[bytes]:
    """A nanny with one worker, as on a host of its own."""
    words = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--name", "2", "--nthreads", "1"]
    words += ["--no-dashboard", "--local-directory", str(folder), "--host", "127.0.0.1"]
    return subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def kill_node(node: subprocess.Popen[bytes]) -> None:
    """End the nanny first, so that it brings nobody back, then its worker."""
    family = psutil.Process(node.pid).children(recursive=True)
    node.kill()
    for process in family:
        if process.is_running() and "rank" not in process.name():
            process.kill()
    node.wait(30)


@pytest.mark.long
@pytest.mark.parametrize("end", [pytest.param("kill", id="kill -9"), pytest.param("terminate", id="SIGTERM")])
def test_a_node_with_its_nanny_is_lost_and_another_comes(tmp_path: Path, end: str) -> None:
    """Its rank goes with nanny and worker, and a new node takes the place by its name.

    Where it is told to end, as a node whose place is needed, the group leaves a checkpoint first.
    """
    made = make_problem(tmp_path / "problem", settings="max_iter: 600 display: 1")
    nodes: list[subprocess.Popen[bytes]] = []
    gone: list[psutil.Process] = []
    with cosdask.LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as client:

        def lose_the_node() -> None:
            gone.extend(psutil.Process(nodes[0].pid).children(recursive=True))
            kill_node(nodes[0]) if end == "kill" else nodes[0].terminate()
            nodes.append(start_node(cluster.scheduler_address, tmp_path))

        nodes.append(start_node(cluster.scheduler_address, tmp_path))
        try:
            client.wait_for_workers(3, timeout=60)
            whole = Train(client, made, tmp_path / "whole.caffemodel")().params
            train = Train(client, made, tmp_path / "small.caffemodel")
            result = train(Progress, lose_the_node, worker_deadline=120, clusterSize=3)
        finally:
            for node in nodes:
                kill_node(node) if node.poll() is None else node.wait(30)
    (restart,) = train.of(Restarted)
    assert "worker 2" in restart.reason
    assert 0 < restart.iteration < 600 if end == "terminate" else restart.iteration == 0
    assert_same(result.params, whole)
    assert not psutil.wait_procs(gone, timeout=30)[1]


@pytest.mark.long
def test_two_deaths_right_after_each_other(train: Train, whole: Any) -> None:
    """The second comes as soon as the group after the first has made a step, before any snapshot of its own."""
    deaths: list[int] = []

    def kill_once_a_group() -> None:
        if len(deaths) == len(train.of(Restarted)) < 2:
            deaths.append(len(deaths))
            rank(len(deaths)).kill()

    class EveryStep(Listener):
        def handle(self, event: Event) -> None:
            super().handle(event)
            if isinstance(event, Progress):
                kill_once_a_group()

    listener = train.listener = EveryStep()
    settings = config(train.made, model=str(train.model), clusterSize=None)
    result = cosdask.CaffeOnDask(train.client, settings, consumers=[listener]).train()
    assert len(train.of(Restarted)) == 2
    assert all("SIGKILL" in restart.reason for restart in train.of(Restarted))
    assert_same(result.params, whole)
    assert [event.iteration for event in train.of(Snapshot)][-1] == 40
