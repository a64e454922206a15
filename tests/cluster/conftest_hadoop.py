"""Helpers of the tests over a real Hadoop."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

import cosdask
from cosdask.cli.main import main
from cosdask.cluster.sandbox import Sandbox
from cosdask.cluster.yarn_client import yarn_client

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
