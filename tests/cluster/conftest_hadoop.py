"""Helpers of the tests over a real Hadoop."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import cosdask
from cosdask.cli.main import main
from cosdask.cluster.sandbox import Sandbox
from cosdask.cluster.yarn_client import yarn_client
from cosdask.events import Progress, Restarted
from cosdask.storage import exists, filesystem, join

#: of the solver that all trainings here use
SETTINGS = "max_iter: 30 snapshot: 10 display: 1 test_interval: 15 test_iter: 3"


def run_cosdask(*words: str) -> int:
    """The command line, in this process; returns the exit code."""
    return main(words)


def until(true: Callable[[], bool], seconds: float) -> None:
    """Wait for something to become true, with a deadline."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, f"not within {seconds:g} s"
        time.sleep(0.2)


def hdfs_folder(hadoop: Sandbox) -> str:
    """Where the small training lies in HDFS."""
    return f"{hadoop.namenode}/yarn/problem"


def options(**more: Any) -> dict[str, Any]:
    """A small cluster of this interpreter's own environment, and of the checkout under test."""
    kept = ("JAX_COMPILATION", "JAX_PERSISTENT", "JAX_NUMPY", "COSDASK_CACHE")
    base = {
        "environment": f"python://{sys.executable}",
        "worker_memory": "1 GiB",
        "scheduler_memory": "512 MiB",
        "worker_env": {
            "PYTHONPATH": str(Path(cosdask.__file__).parents[1]),
            **{name: value for name, value in os.environ.items() if name.startswith(kept)},
        },
        "deadline": 240.0,
    }
    return {**base, **more}


def yarn_words() -> list[str]:
    """The same as flags."""
    given = options()
    words = ["--environment", given["environment"], "--worker-memory", "1GiB", "--scheduler-memory", "512MiB"]
    words += ["--driver-memory", "512MiB", "--yarn-deadline", "240"]
    return words + [word for name, value in given["worker_env"].items() for word in ("--env", f"{name}={value}")]


def processes_of(sandbox: Sandbox) -> list[psutil.Process]:
    """Every daemon, container and client program of the sandbox's, known by the environment it was started with."""
    found = []
    for process in psutil.process_iter():
        environment = _environment(process)
        ours = environment.get("HADOOP_CONF_DIR") == str(sandbox.folder / "conf")
        if ours and ("CONTAINER_ID" in environment or process.name() == "java"):
            found.append(process)
    return found


def containers_of(sandbox: Sandbox, application: str) -> list[psutil.Process]:
    """The processes of an application's containers."""
    number = application.removeprefix("application_")
    return [process for process in processes_of(sandbox) if number in _environment(process).get("CONTAINER_ID", "")]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ() if process.is_running() else {}
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return {}


def applications_running() -> set[str]:
    """Applications that have not ended; without the one that the tests share."""
    with yarn_client() as asking:
        return {report.id for report in asking.get_applications() if "shared" not in report.tags}


def staged() -> set[str]:
    """Applications for which files lie in HDFS."""
    folder = f"hdfs:///user/{os.environ['HADOOP_USER_NAME']}/.skein"
    fs, path = filesystem(folder)
    return {os.path.basename(name) for name in fs.ls(path, detail=False)} if exists(folder) else set()


def in_hdfs(hadoop: Sandbox, name: str, **more: Any) -> cosdask.Config:
    """The same job with every path in HDFS."""
    base = hdfs_folder(hadoop)
    return cosdask.Config(
        **{
            "conf": join(base, "solver.prototxt"),
            "model": join(base, f"{name}/small.caffemodel"),
            "progress": "none",
            "clusterSize": 2,
            "worker_deadline": 120,
            **more,
        }
    )


def assert_same(params: dict[str, Any], others: dict[str, Any]) -> None:
    """Weights equal bit for bit (invariant 2)."""
    assert list(params) == list(others)
    for name, blobs in others.items():
        for mine, other in zip(params[name], blobs, strict=True):
            np.testing.assert_array_equal(mine, other)


class Kept:
    """A consumer that keeps all events."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def handle(self, event: Any) -> None:
        self.events.append(event)

    def close(self) -> None:
        """Nothing is held."""


def kill_rank(hadoop: Sandbox) -> None:
    """One rank's process."""
    ranks = [process for process in processes_of(hadoop) if "cosdask.parallel.rank" in " ".join(process.cmdline())]
    ranks[0].kill()


def kill_container(hadoop: Sandbox) -> None:
    """Everything of one worker's container, as when a node's memory killer strikes."""
    ranks = [process for process in processes_of(hadoop) if "cosdask.parallel.rank" in " ".join(process.cmdline())]
    container = ranks[0].environ()["CONTAINER_ID"]
    for process in processes_of(hadoop):
        # some go with those that were killed before
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.environ().get("CONTAINER_ID") == container:
                process.kill()


class Acting:
    """A consumer that acts once, when the first progress after an iteration is told."""

    def __init__(self, act: Callable[[], None], after: int) -> None:
        self._act, self._after, self.restarts, self.done = act, after, 0, False

    def handle(self, event: Any) -> None:
        if isinstance(event, Restarted):
            self.restarts += 1
        if isinstance(event, Progress) and event.iteration >= self._after and not self.done:
            self.done = True
            self._act()

    def close(self) -> None:
        """Nothing is held."""
