"""Processes of ranks that are started ahead: none stays where nobody takes it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest_parallel import rank_processes, run_client, soon, start_client
from distributed import Client
from problems import make_problem

from cosdask.parallel import link, spares
from cosdask.storage import RunFolder

DEADLINE = 60.0


def make_impatient(client: Client) -> None:
    """Spares of all workers wait for a second only."""

    def impatient() -> None:  # in here, so that it travels as it is: workers do not have this module
        link._spares.unwanted = 1.0

    client.wait_for_workers(2, timeout=DEADLINE)
    client.run(impatient)


@pytest.fixture
def kept() -> Iterator[spares.Spares]:
    """The spare of a worker that is this process; afterwards there is none."""
    found = spares.Spares()
    yield found
    found.end()
    assert not rank_processes()


def test_a_spare_that_nobody_takes_ends_by_itself(kept: spares.Spares, tmp_path: Path) -> None:
    """Invariant 5: no process is left; one that is taken, or beside which a rank lives, stays."""
    kept.unwanted = 1.0
    kept.prepare(1, str(tmp_path))
    kept.wait_for_group()
    assert soon(rank_processes) and soon(lambda: not rank_processes())
    kept.prepare(1, str(tmp_path))
    kept.wait_for_group()
    taken = kept.take(1)
    assert taken is not None
    process, log = taken
    kept.prepare(1, str(tmp_path))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2.0)
    assert len(rank_processes()) == 2
    spares.end(process)
    log.close()


def test_a_spare_of_other_threads_gives_way(kept: spares.Spares, tmp_path: Path) -> None:
    """A rank has the threads that its job says."""
    kept.prepare(2, str(tmp_path))
    assert kept.take(1) is None
    assert not rank_processes()


def test_a_spare_that_could_not_start_is_no_spare(
    kept: spares.Spares, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither the next rank nor the end of a run fails for it."""

    def refuse(*_: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(spares, "start", refuse)
    kept.prepare(1, str(tmp_path))
    assert kept.take(1) is None
    kept.prepare(1, str(tmp_path))
    kept.end()
    assert kept.take(1) is None


def test_a_client_that_dies_while_rows_are_counted_leaves_no_spare(cluster_process: Any, tmp_path: Path) -> None:
    """kill -9 before there is a group, which would take the processes that were started for it."""
    made = make_problem(tmp_path / "problem", settings="max_iter: 300 snapshot: 20")
    with Client(cluster_process.address, set_as_default=False) as client:
        make_impatient(client)
        with run_client(cluster_process, made) as first:
            assert soon(lambda: rank_processes(cluster_process.pid))
            first.kill()
        assert not RunFolder(made.folder / "out" / "small.run").read_snapshots()
        assert soon(lambda: not rank_processes(cluster_process.pid))


@pytest.mark.long
def test_a_client_that_dies_between_two_groups_leaves_no_spare(cluster_process: Any, tmp_path: Path) -> None:
    """kill -9 of client and ranks together: the spares beside the ranks wait for a group that never comes."""
    made = make_problem(tmp_path / "problem", settings="max_iter: 1000000 snapshot: 200")
    with Client(cluster_process.address, set_as_default=False) as client:
        make_impatient(client)
        with start_client(cluster_process, made) as first:
            assert soon(lambda: len(rank_processes(cluster_process.pid)) == 4)
            first.kill()
        for process in rank_processes(cluster_process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):  # one's death ends the other
                if process.name().startswith("cosdask-rank"):
                    process.kill()
        assert soon(lambda: not rank_processes(cluster_process.pid))
