"""One real Hadoop for all tests of this folder, and the check that nothing of it is left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest_hadoop import SETTINGS, hdfs_folder, processes_of
from distributed import Client

import cosdask
from cosdask.cluster.sandbox import Sandbox
from cosdask.storage import atomic_write, filesystem, join
from tests.parallel.problems import Problem, make_problem

_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use the Hadoop are slow, stay in one process, and have time to wait for YARN."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and "hadoop" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.hadoop)
            item.add_marker(pytest.mark.xdist_group("hadoop"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Remember that something failed: the logs are kept then."""
    report = yield
    if report.failed and Path(__file__).parent in item.path.parents:  # type: ignore[attr-defined]
        item.session.stash[_FAILED] = True
    return report


@pytest.fixture(scope="session")
def hadoop(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """HDFS with two DataNodes and YARN with two NodeManagers; this process's environment points at them.

    ``COSDASK_TEST_SANDBOX`` names a running sandbox to use instead, which spares its start while developing.
    """
    folder = Path(tempfile.mkdtemp(prefix="cosdask-hadoop-"))
    running = os.environ.get("COSDASK_TEST_SANDBOX")
    sandbox = Sandbox.attach(running) if running else Sandbox.start(folder / "sandbox")
    before = dict(os.environ)
    # nothing is written to the user's home
    os.environ.update(sandbox.environment(), SKEIN_CONFIG=str(folder / "skein"), DASK_CONFIG=str(folder / "dask"))
    try:
        yield sandbox
    finally:
        os.environ.clear()
        os.environ.update(before)
        alive = [] if running else _ended(sandbox)
        if request.session.stash.get(_FAILED, False):
            print(f"\nHadoop's logs are kept: {sandbox.folder}")
        else:
            shutil.rmtree(folder)
    assert not alive, f"left over: {alive}"


def _ended(sandbox: Sandbox) -> list[psutil.Process]:
    """Stop the sandbox; what is still there afterwards."""
    sandbox.stop()
    return psutil.wait_procs(processes_of(sandbox), timeout=20)[1]


@pytest.fixture(scope="session")
def problem(hadoop: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A small training: local files, and the same in HDFS at ``hdfs_folder``."""
    made = make_problem(tmp_path_factory.mktemp("yarn") / "problem", settings=SETTINGS)
    base = hdfs_folder(hadoop)
    fs, path = filesystem(base)
    fs.put(f"{made.folder}/", path + "/", recursive=True)
    net = (made.folder / "net.prototxt").read_text()
    for name in ("train_lmdb", "test_lmdb"):
        net = net.replace(f'"{name}"', f'"{join(base, name)}"')
    atomic_write(join(base, "net.prototxt"), net)
    solver = made.solver.read_text().replace('"net.prototxt"', f'"{join(base, "net.prototxt")}"')
    atomic_write(join(base, "solver.prototxt"), solver)
    return made


@pytest.fixture(scope="session")
def local(problem: Problem) -> dict[str, Any]:
    """What two workers on this machine make of the local files."""
    with cosdask.LocalCluster(n_workers=2, threads_per_worker=1) as two, Client(two, set_as_default=False) as connected:
        config = cosdask.Config(conf=str(problem.solver), model=problem.model, progress="none")
        job = cosdask.CaffeOnDask(connected, config)
        validation = job.train_with_validation()
        return {
            "validation": validation,
            "params": job.train().params,
            "test": job.test(),
            "features": job.features(blobs=["ip1"]).compute(),
        }
