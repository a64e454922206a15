"""Training, testing and features through YARN on data in HDFS; and what happens when parts of it die.

One application with two workers serves most tests here: starting one takes seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest_hadoop import (
    Acting,
    Kept,
    applications_running,
    assert_same,
    containers_of,
    hdfs_folder,
    in_hdfs,
    kill_container,
    kill_rank,
    options,
    staged,
    until,
)
from distributed import Client

import cosdask
from cosdask.cluster import doctor
from cosdask.cluster.sandbox import Sandbox
from cosdask.cluster.sandbox_conf import SMALL_QUEUE
from cosdask.convert import convert, open_input
from cosdask.errors import ClusterError, ConfigError, DeadlineError, StorageError
from cosdask.events import RunStarted
from cosdask.parallel.snapshots import newest_whole
from cosdask.proto import read_net, to_text
from cosdask.storage import RunFolder, atomic_write, filesystem, join, read_text, run_folder_for
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
    assert name not in staged()


@pytest.fixture
def client(cluster: Any) -> Iterator[Client]:
    """A client of the cluster with both workers there."""
    cluster.wait_for_workers(2, deadline=120)
    with Client(cluster) as connected:
        connected.wait_for_workers(2, timeout=120)
        yield connected


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


def test_a_run_goes_on_from_a_snapshot_in_hdfs(
    hadoop: Sandbox, client: Client, problem: Problem, local: dict[str, Any]
) -> None:
    """From the state that another run left there, to the same weights; its rows are all local (invariant 4)."""
    seen = Kept()
    cosdask.CaffeOnDask(client, in_hdfs(hadoop, "whole"), consumers=[seen]).train()
    # two copies of each block on two nodes: whoever reads it has it
    assert [event.local_share for event in seen.events if isinstance(event, RunStarted)] == [1.0]
    snapshot = join(hdfs_folder(hadoop), "whole/small_iter_20.solverstate")
    resumed = cosdask.CaffeOnDask(client, in_hdfs(hadoop, "resumed", snapshot=snapshot)).train()
    assert resumed.started is not None and resumed.started.start_iteration == 20
    assert_same(resumed.params, local["params"])


@pytest.mark.parametrize(("form", "kind"), [("parquet", "ImageDataFrame"), ("sequence", "SeqImageDataSource")])
def test_rows_in_other_forms_give_the_same_weights(
    hadoop: Sandbox, client: Client, problem: Problem, local: dict[str, Any], form: str, kind: str
) -> None:
    """The LMDB's rows as parquet and as SequenceFiles in HDFS: the weights that the LMDB gives a LocalCluster."""
    base = join(hdfs_folder(hadoop), form)
    convert(open_input(str(problem.folder / "train_lmdb")), f"{base}/rows", form, parts=2)
    net = read_net(join(hdfs_folder(hadoop), "net.prototxt"))
    layer = net.layer[0]
    layer.type, layer.source_class = "MemoryData", kind
    rows = layer.memory_data_param
    rows.source, rows.batch_size = f"{base}/rows", layer.data_param.batch_size
    rows.channels, rows.height, rows.width = problem.images.shape[1:]
    layer.ClearField("data_param")
    atomic_write(f"{base}/net.prototxt", to_text(net))
    solver = read_text(join(hdfs_folder(hadoop), "solver.prototxt"))
    atomic_write(f"{base}/solver.prototxt", solver.replace("problem/net.prototxt", f"problem/{form}/net.prototxt"))
    config = in_hdfs(hadoop, form, conf=f"{base}/solver.prototxt")
    assert_same(cosdask.CaffeOnDask(client, config).train().params, local["params"])


def _containers(job: cosdask.CaffeOnDask) -> set[str]:
    """The names that ranks went by: those of the containers."""
    return {"dask.worker_0", "dask.worker_1", *(member.worker for member in job._members(job.client))}


def _parquet(url: str) -> Any:
    import pandas as pd

    fs, path = filesystem(url)
    return pd.concat([pd.read_parquet(fs.open(name)) for name in sorted(fs.find(path))], ignore_index=True)


@pytest.mark.parametrize("victim", ["rank", pytest.param("container", marks=pytest.mark.long)])
def test_a_death_changes_nothing_but_time(
    hadoop: Sandbox, client: Client, problem: Problem, local: dict[str, Any], victim: str
) -> None:
    """kill -9 of a rank, and of a whole container: a new group goes on from HDFS, to the same weights (invariant 5)."""
    kills = Acting(lambda: {"rank": kill_rank, "container": kill_container}[victim](hadoop), after=12)
    result = cosdask.CaffeOnDask(client, in_hdfs(hadoop, victim), consumers=[kills]).train()
    assert kills.restarts == 1 and result.status == "done"
    assert_same(result.params, local["params"])


@pytest.mark.long
def test_a_datanode_that_dies_while_a_training_snapshots(
    hadoop: Sandbox, client: Client, problem: Problem, local: dict[str, Any]
) -> None:
    """kill -9 of one of two: rows are read and snapshots written on, whole, to the same weights (invariants 5, 7)."""
    config = in_hdfs(hadoop, "datanode")
    kills = Acting(lambda: hadoop.kill("dn0"), after=1)
    try:
        result = cosdask.CaffeOnDask(client, config, consumers=[kills]).train()
        assert kills.done and kills.restarts == 0 and result.status == "done"
        assert_same(result.params, local["params"])
        newest, problems = newest_whole(RunFolder(run_folder_for(config.model)))
        assert newest is not None and newest["iteration"] == 30 and not problems
        fs, path = filesystem(join(hdfs_folder(hadoop), "datanode"))
        assert not [name for name in fs.find(path) if ".part" in name]
    finally:
        hadoop.launch("dn0")
        hadoop.wait(90)


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
    before = staged()
    with pytest.raises(ClusterError, match=r"No module named.*cosdask package"):
        cosdask.YarnCluster(1, **options(environment="python:///usr/bin/python3", worker_env={}))
    assert not applications_running() and staged() <= before


@pytest.mark.long
def test_a_queue_without_room_says_what_it_waits_for(hadoop: Sandbox) -> None:
    """It gives up at its deadline, names the queue, and takes the application back; an unknown queue is refused."""
    before = staged()
    with pytest.raises(DeadlineError, match=rf"waits for room in the queue \S*{SMALL_QUEUE}"):
        cosdask.YarnCluster(1, **options(queue=SMALL_QUEUE, deadline=5))
    with pytest.raises((ClusterError, ConfigError), match="nosuch"):
        cosdask.YarnCluster(1, **options(queue="nosuch", deadline=60))
    until(lambda: not applications_running(), 30)
    assert staged() <= before


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
    until(lambda: application not in staged(), 30)
