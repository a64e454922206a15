"""One real Hadoop for all tests of this folder, and the check that nothing of it is left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cosdask.cluster.sandbox import Sandbox

_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use the Hadoop are slow, stay in one process, and have time to wait for YARN."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and "hadoop" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
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


def processes_of(sandbox: Sandbox) -> list[psutil.Process]:
    """Every daemon, container and client program of the sandbox's, known by the environment it was started with."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            ours = environment.get("HADOOP_CONF_DIR") == str(sandbox.folder / "conf")
            if ours and (process.name() == "java" or "CONTAINER_ID" in environment):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found
