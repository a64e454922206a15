"""One local cluster of three workers for all tests here, and the check that nothing of it is left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest_parallel import Train, config, listening, ranks_alive
from distributed import Client
from problems import Problem, make_problem

import cosdask

CLUSTER = """
import cosdask, sys
if __name__ == "__main__":
    with cosdask.LocalCluster(n_workers=2, threads_per_worker=1) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests are shared out over processes, those that use the one cluster stay in one."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("cluster"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[cosdask.LocalCluster]:
    """Three workers of one thread; afterwards no process or port of theirs is left."""
    before = listening()
    with cosdask.LocalCluster(n_workers=3, threads_per_worker=1) as local:
        yield local
        started = [process for process in psutil.Process().children(recursive=True) if not _of_python(process)]
    _, left = psutil.wait_procs(started, timeout=30)
    assert not left, f"processes left: {left}"
    assert listening() <= before, "ports left"


def _of_python(process: psutil.Process) -> bool:
    """Python's own helper of multiprocessing, which lives as long as this process."""
    return "resource_tracker" in " ".join(process.cmdline())


@pytest.fixture
def client(cluster: cosdask.LocalCluster) -> Iterator[Client]:
    """A client of the cluster, with all three workers there; no rank outlives a test, nor any of its ports."""
    with Client(cluster) as connected:
        connected.wait_for_workers(3, timeout=60)
        before = listening()
        processes = {pid for pid, _ in before}
        yield connected
        assert not ranks_alive()
        # a worker that came in a dead one's place has a port of its own
        assert {(pid, port) for pid, port in listening() if pid in processes} <= before, "ports left"


@pytest.fixture
def problem(tmp_path: Path) -> Callable[..., Problem]:
    """Makes a problem in the test's folder."""
    return lambda **settings: make_problem(tmp_path / "problem", **settings)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A problem that validates and writes snapshots, for trainings that something happens to."""
    settings = "max_iter: 40 snapshot: 15 display: 1 test_interval: 10 test_iter: 2"
    return make_problem(tmp_path_factory.mktemp("made") / "problem", settings=settings)


@pytest.fixture(scope="session")
def whole(cluster: cosdask.LocalCluster, made: Problem) -> Any:
    """The weights that it ends with where nothing happens."""
    with Client(cluster, set_as_default=False) as connected:
        return cosdask.CaffeOnDask(connected, config(made, clusterSize=None)).train().params


@pytest.fixture
def train(client: Client, made: Problem, tmp_path: Path) -> Train:
    """See :class:`Train`."""
    return Train(client, made, tmp_path / "small.caffemodel")


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
