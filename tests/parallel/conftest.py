"""One local cluster of three workers for all tests here, and the check that nothing of it is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest_parallel import ranks_alive
from distributed import Client
from problems import Problem, make_problem

import cosdask


@pytest.fixture(scope="session")
def cluster() -> Iterator[cosdask.LocalCluster]:
    """Three workers of one thread; afterwards no process of theirs is left."""
    with cosdask.LocalCluster(n_workers=3, threads_per_worker=1) as local:
        yield local
        children = psutil.Process().children(recursive=True)
    _, alive = psutil.wait_procs(children, timeout=30)
    left = [process for process in alive if "resource_tracker" not in " ".join(process.cmdline())]
    assert not left, f"processes left: {left}"


@pytest.fixture
def client(cluster: cosdask.LocalCluster) -> Iterator[Client]:
    """A client of the cluster, with all three workers there; no rank outlives a test."""
    with Client(cluster) as connected:
        connected.wait_for_workers(3, timeout=60)
        yield connected
        assert not ranks_alive()


@pytest.fixture
def problem(tmp_path: Path) -> Callable[..., Problem]:
    """Makes a problem in the test's folder."""
    return lambda **settings: make_problem(tmp_path / "problem", **settings)
