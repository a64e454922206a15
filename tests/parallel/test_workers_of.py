"""Which workers there are, as the scheduler says it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import pytest
from conftest_parallel import config
from distributed import Client
from problems import make_problem

import cosdask
from cosdask.cluster import LocalCluster
from cosdask.errors import DeadlineError, GroupError
from cosdask.parallel.group import workers_of


def test_workers_do_not_vanish_while_the_client_asks_for_something_else() -> None:
    """Dask's client asks for a summary without workers again and again; its answers must not be taken for ours, or a
    busy machine loses ranks that live (invariant 5)."""
    with (
        dask.config.set({"distributed.client.scheduler-info-interval": "1ms"}),
        LocalCluster(n_workers=1) as cluster,
        Client(cluster) as client,
    ):
        assert [len(workers_of(client)) for _ in range(300)] == [1] * 300


@pytest.mark.timeout(60)
def test_a_scheduler_that_hangs_is_as_good_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 6: it is stopped, and the connection lives on. Once it goes on, the same client goes on with it."""
    monkeypatch.setattr("cosdask.parallel.group.SCHEDULER_ANSWER", 1.0)
    made, file = make_problem(tmp_path / "problem", rows=10, test_rows=10), tmp_path / "scheduler.json"
    words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    words += ["--no-dashboard", "--scheduler-file", str(file)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as scheduler:
        try:
            until = time.monotonic() + 30
            while not file.exists():
                assert time.monotonic() < until
                time.sleep(0.05)
            with Client(scheduler_file=str(file), set_as_default=False) as client:
                cos = cosdask.CaffeOnDask(client, config(made, worker_deadline=1))
                with pytest.raises(DeadlineError, match="0 worker"):
                    cos.train()
                scheduler.send_signal(signal.SIGSTOP)
                with pytest.raises(GroupError, match=r"scheduler is lost: it has not answered for 1 s.*--resume"):
                    cos.train()
                scheduler.send_signal(signal.SIGCONT)
                with pytest.raises(DeadlineError, match="0 worker"):
                    cos.train()
        finally:
            scheduler.kill()
