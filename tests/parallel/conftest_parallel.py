"""What tests of the group share besides fixtures."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from distributed import Client
from problems import Problem

import cosdask
from cosdask.events import Event
from cosdask.parallel.group import Member
from cosdask.parallel.job import Job
from cosdask.storage import RunFolder

MAIN = "import sys; from cosdask.cli.main import main; sys.exit(main())"
DEADLINE = 120.0
#: of a group that is nowhere, and what it would do
MEMBERS = [Member(f"tcp://10.0.0.{i}:1", str(i), f"10.0.0.{i}", 1, f"/tmp/worker-{i}") for i in range(2)]
JOB = Job(
    run_id="r", solver="", source={}, test_sources=[], model="m", seed=1, world=2,
    members=[member.as_dict() for member in MEMBERS], threads=[1, 1],
)  # fmt: skip


def ranks_alive() -> list[psutil.Process]:
    """The rank processes below this one, spares that wait for a job left out."""
    return [process for process in rank_processes() if _name(process) != "cosdask-spare"]


def rank_processes(below: int | None = None) -> list[psutil.Process]:
    """The processes of ranks and of those that may become one, below a process, by default this one."""
    found = psutil.Process(os.getpid() if below is None else below).children(recursive=True)
    return [process for process in found if "cosdask.parallel.rank" in _command(process)]


def listening() -> set[tuple[int, int]]:
    """Process and port wherever this process, or one below it, listens."""
    me = psutil.Process()
    return {(process.pid, port) for process in [me, *me.children(recursive=True)] for port in _ports(process)}


def _ports(process: psutil.Process) -> list[int]:
    """Where a process listens; nowhere where it has ended meanwhile."""
    try:
        return [found.laddr.port for found in process.net_connections("inet") if found.status == psutil.CONN_LISTEN]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def _command(process: psutil.Process) -> str:
    """How a process was started; nothing where it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def _name(process: psutil.Process) -> str:
    """A process's name; that of a spare where it has ended meanwhile."""
    try:
        return process.name() if process.status() != psutil.STATUS_ZOMBIE else "cosdask-spare"
    except psutil.NoSuchProcess:
        return "cosdask-spare"


def config(problem: Problem, **options: Any) -> cosdask.Config:
    """A configuration of the problem's solver and model for two workers, without a progress bar.

    Each rank's imports take a core for a second or two; ``clusterSize=None`` takes all three workers.
    """
    given = {"conf": str(problem.solver), "model": problem.model, "progress": "none", "rank_silence": 120}
    return cosdask.Config(**{**given, "clusterSize": 2, **options})


def rank(number: int) -> psutil.Process:
    """The process of a rank."""
    return next(process for process in ranks_alive() if process.name() == f"cosdask-rank-{number}")


def assert_same(found: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
    """Bit for bit."""
    for name, blobs in whole.items():
        for mine, other in zip(found[name], blobs, strict=True):
            np.testing.assert_array_equal(mine, other)


class Listener:
    """Keeps events and does something at one of a kind, by default the first."""

    def __init__(
        self, kind: type[Event] | None = None, act: Callable[[], object] | None = None, number: int = 1
    ) -> None:
        self.events: list[Event] = []
        self._kind, self._act, self._left = kind, act, number

    def handle(self, event: Event) -> None:
        """Take an event."""
        self.events.append(event)
        if self._act is not None and self._kind is not None and isinstance(event, self._kind):
            self._left -= 1
            if self._left == 0:
                self._act()

    def close(self) -> None:
        """Nothing to end."""

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


class Train:
    """Trains a problem, with something happening at an event of a kind."""

    def __init__(self, client: Client, made: Problem, model: Path) -> None:
        self.client, self.made, self.model = client, made, model
        self.listener = Listener()

    def __call__(
        self,
        kind: type[Event] | None = None,
        act: Callable[[], object] | None = None,
        number: int = 1,
        validate: bool = False,
        **options: Any,
    ) -> Any:
        self.listener = Listener(kind, act, number)
        settings = config(self.made, model=str(self.model), **{"clusterSize": None, **options})
        cos = cosdask.CaffeOnDask(self.client, settings, consumers=[self.listener])
        return cos.train_with_validation() if validate else cos.train()

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of a kind in the last training."""
        return self.listener.of(kind)

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return RunFolder(self.model.with_suffix(".run"))


def run_client(process: Any, made: Problem) -> subprocess.Popen[bytes]:
    """A training on the cluster of a process, by a client in a process of its own."""
    words = ["train", "-conf", str(made.solver), "-model", made.model, "--cluster", process.address]
    return subprocess.Popen([sys.executable, "-c", MAIN, *words, "--progress", "none"], stderr=subprocess.PIPE)


def start_client(process: Any, made: Problem) -> subprocess.Popen[bytes]:
    """A training by a client of its own, once its first snapshot is there."""
    client = run_client(process, made)
    folder, until = RunFolder(made.folder / "out" / "small.run"), time.monotonic() + DEADLINE
    while not folder.read_snapshots():
        if time.monotonic() > until or client.poll() is not None:
            client.kill()
            pytest.fail(f"no snapshot within {DEADLINE} s: {client.communicate()[1].decode()}")
        time.sleep(0.02)
    return client


def soon(condition: Callable[[], object]) -> bool:
    """Whether something comes true within a minute."""
    pause, until = threading.Event(), time.monotonic() + 60.0
    while not condition():
        if time.monotonic() > until:
            return False
        pause.wait(0.02)
    return True
