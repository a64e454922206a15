"""Training, testing and features through YARN on data in HDFS; and what happens when parts of it die.

One application with two workers serves most tests here: starting one takes seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest_hadoop import applications_running, containers_of, hdfs_folder, options, processes_of, until
from distributed import Client

import cosdask
from cosdask.cluster import doctor
from cosdask.cluster.sandbox import Sandbox
from cosdask.cluster.sandbox_conf import SMALL_QUEUE
from cosdask.errors import ClusterError, ConfigError, DeadlineError, StorageError
from cosdask.events import Progress, Restarted
from cosdask.storage import exists, filesystem, join
from tests.cluster.needs import needs_hadoop
from tests.parallel.problems import Problem

pytestmark = [needs_hadoop, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(hadoop: Sandbox) -> Iterator[Any]:
    """Two workers in containers; afterwards the application is finished and its staging files are gone."""
    with cosdask.YarnCluster(2, **options(tags=["shared"])) as started:
        started.wait_for_workers(2, deadline=240)
        yield started
        name = started.app_id
    assert not exists(f"{hadoop.namenode}/user/{os.environ['HADOOP_USER_NAME']}/.skein/{name}")


@pytest.fixture
def client(cluster: Any) -> Iterator[Client]:
    """A client of the cluster with both workers there."""
    cluster.wait_for_workers(2, deadline=120)
    with Client(cluster) as connected:
        connected.wait_for_workers(2, timeout=120)
        yield connected


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


def test_every_verb_gives_what_a_local_cluster_gives(
    hadoop: Sandbox, client: Client, problem: Problem, local: dict[str, Any]
) -> None:
    """Training with validation, test and features over HDFS through YARN: the numbers of a LocalCluster."""
    from cosdask.data.table_files import write_table

    config = in_hdfs(hadoop, "verbs")
    job = cosdask.CaffeOnDask(client, config)
    validation = job.train_with_validation()
    assert validation.equals(local["validation"])
    assert job.test() == local["test"]
    output = join(hdfs_folder(hadoop), "features")
    assert write_table(job.features(blobs=["ip1"]), output, "parquet", overwrite=True) == 60
    found = _parquet(output)
    assert found["SampleID"].tolist() == local["features"]["SampleID"].tolist()
    for mine, other in zip(found["ip1"], local["features"]["ip1"], strict=True):
        np.testing.assert_array_equal(mine, other)
    assert {worker["name"] for worker in client.scheduler_info()["workers"].values()} <= _containers(job)


def _containers(job: cosdask.CaffeOnDask) -> set[str]:
    """The names that ranks went by: those of the containers."""
    return {"dask.worker_0", "dask.worker_1", *(member.worker for member in job._members(job.client))}


def _parquet(url: str) -> Any:
    import pandas as pd

    fs, path = filesystem(url)
    return pd.concat([pd.read_parquet(fs.open(name)) for name in sorted(fs.find(path))], ignore_index=True)


def _kill_rank(hadoop: Sandbox) -> None:
    ranks = [process for process in processes_of(hadoop) if "cosdask.parallel.rank" in " ".join(process.cmdline())]
    ranks[0].kill()


def _kill_container(hadoop: Sandbox) -> None:
    """Everything of one worker's container, as when a node's memory killer strikes."""
    ranks = [process for process in processes_of(hadoop) if "cosdask.parallel.rank" in " ".join(process.cmdline())]
    container = ranks[0].environ()["CONTAINER_ID"]
    for process in processes_of(hadoop):
        if process.environ().get("CONTAINER_ID") == container:
            process.kill()


class _Kills:
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


@pytest.mark.parametrize("victim", ["rank", pytest.param("container", marks=pytest.mark.long)])
def test_a_death_changes_nothing_but_time(
    hadoop: Sandbox, client: Client, problem: Problem, local: dict[str, Any], victim: str
) -> None:
    """kill -9 of a rank, and of a whole container: a new group goes on from HDFS, to the same weights (invariant 5)."""
    kills = _Kills(lambda: {"rank": _kill_rank, "container": _kill_container}[victim](hadoop), after=12)
    result = cosdask.CaffeOnDask(client, in_hdfs(hadoop, victim), consumers=[kills]).train()
    assert kills.restarts == 1 and result.status == "done"
    assert_same(result.params, local["params"])


def test_the_cluster_scales_comes_back_and_tells_what_it_printed(cluster: Any, client: Client) -> None:
    """More workers, fewer workers; the same cluster by its id; Hadoop's own logs; no adapting."""
    cluster.scale(3)
    cluster.wait_for_workers(3, deadline=240)
    cluster.scale(2)
    until(lambda: len(client.scheduler_info()["workers"]) == 2, 60)
    with pytest.raises(ConfigError, match=r"Call scale\(n\)"):
        cluster.adapt(minimum=1)
    with cosdask.YarnCluster.from_application_id(cluster.app_id) as again:
        assert again.scheduler_address == cluster.scheduler_address
        assert "dask.worker:" in again.describe()
    # who came back has gone again; the cluster is still there
    assert client.submit(sum, [1, 2]).result(timeout=60) == 3
    assert cluster.status.name == "running"
    logs = cluster.logs(workers=False)
    assert any("scheduler at" in text for text in logs.values())
    assert not any("dask.worker" in name for name in logs)


def test_the_doctor_finds_a_healthy_cluster_healthy(client: Client) -> None:
    """Every worker writes to HDFS and reaches the others' ports; nothing is bad."""
    found = list(doctor.check_workers(client, hdfs=True))
    assert not [str(finding) for finding in found if finding.state == doctor.BAD]
    assert sum("HDFS: takes files" in finding.what for finding in found) == 2
    assert any("all 2 reach each other's ports" in finding.what for finding in found)


def test_a_wrong_path_in_hdfs_is_one_clear_message(hadoop: Sandbox, client: Client, problem: Problem) -> None:
    """Before anything is trained, with the nearest name there is."""
    base = hdfs_folder(hadoop)
    with pytest.raises(StorageError, match=r"solver\.prototext: no such file.*solver\.prototxt"):
        cosdask.CaffeOnDask(client, in_hdfs(hadoop, "x", conf=join(base, "solver.prototext"))).train()


@pytest.mark.long
def test_an_environment_without_cosdask_says_so(hadoop: Sandbox, tmp_path: Path) -> None:
    """The container's own last words are in the message, and nothing is left running."""
    with pytest.raises(ClusterError, match=r"No module named.*cosdask package"):
        cosdask.YarnCluster(1, **options(environment="python:///usr/bin/python3", worker_env={}))
    assert not applications_running()


@pytest.mark.long
def test_a_queue_without_room_says_what_it_waits_for(hadoop: Sandbox) -> None:
    """It gives up at its deadline, names the queue, and takes the application back; an unknown queue is refused."""
    with pytest.raises(DeadlineError, match=rf"waits for room in the queue \S*{SMALL_QUEUE}"):
        cosdask.YarnCluster(1, **options(queue=SMALL_QUEUE, deadline=5))
    with pytest.raises((ClusterError, ConfigError), match="nosuch"):
        cosdask.YarnCluster(1, **options(queue="nosuch", deadline=60))
    until(lambda: not applications_running(), 30)


_CLIENT = """
import sys, time, cosdask
cluster = cosdask.YarnCluster(1, **{options!r})
print(cluster.app_id, flush=True)
time.sleep(600)
"""


@pytest.mark.long
def test_a_dead_client_leaves_nothing_running(hadoop: Sandbox) -> None:
    """kill -9 of the client's process: the application ends by itself, and its containers with it."""
    program = _CLIENT.format(options=options(idle_timeout=2))
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(cosdask.__file__).parents[1])},
        text=True,
    )
    try:
        assert process.stdout is not None
        application = process.stdout.readline().strip()
        assert application.startswith("application_")
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()
    until(lambda: application not in applications_running(), 60)
    until(lambda: not containers_of(hadoop, application), 30)
