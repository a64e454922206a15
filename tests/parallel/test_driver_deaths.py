"""Nothing that a run needs is only in its client or its scheduler: both may die, and ``resume`` makes the run whole."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest_parallel import Listener, assert_same, config, rank_processes
from distributed import Client
from problems import Problem, make_problem

import cosdask
from cosdask.events import RunStarted
from cosdask.storage import RunFolder

CLUSTER = """
import cosdask, sys
if __name__ == "__main__":
    with cosdask.LocalCluster(n_workers=2, threads_per_worker=1) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""
MAIN = "import sys; from cosdask.cli.main import main; sys.exit(main())"
DEADLINE = 120.0


@pytest.fixture
def cluster_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Scheduler and nannies in a process of their own; afterwards nothing of it is left."""
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    family = []
    with process:
        assert process.stdout is not None and process.stdin is not None
        process.address = process.stdout.readline().strip()  # type: ignore[attr-defined]
        family = psutil.Process(process.pid).children(recursive=True)
        yield process
        if process.poll() is None:
            process.stdin.close()
    _, left = psutil.wait_procs(family, timeout=30)
    assert not left, f"processes left: {left}"


def start_client(process: Any, made: Problem) -> subprocess.Popen[bytes]:
    """A training by a client of its own, once its first snapshot is there."""
    words = ["train", "-conf", str(made.solver), "-model", made.model, "--cluster", process.address]
    client = subprocess.Popen([sys.executable, "-c", MAIN, *words, "--progress", "none"], stderr=subprocess.PIPE)
    folder, until = RunFolder(made.folder / "out" / "small.run"), time.monotonic() + DEADLINE
    while not folder.read_snapshots():
        if time.monotonic() > until or client.poll() is not None:
            client.kill()
            pytest.fail(f"no snapshot within {DEADLINE} s: {client.communicate()[1].decode()}")
        time.sleep(0.02)
    return client


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
