"""kill -9 of YARN's own parts during a training: the application's master, and a node's manager."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from conftest_hadoop import Acting, Kept, assert_same, containers_of, in_hdfs, options, staged, until
from distributed import Client

import cosdask
from cosdask.cluster.sandbox import Sandbox
from cosdask.cluster.yarn_client import report_of, yarn_client
from cosdask.errors import GroupError
from cosdask.events import RunStarted
from tests.cluster.needs import needs_hadoop
from tests.parallel.problems import Problem

pytestmark = [needs_hadoop, pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def survivor(hadoop: Sandbox) -> Iterator[Any]:
    """A cluster of two workers that outlives what happens to others; afterwards nothing of it is left."""
    with cosdask.YarnCluster(2, **options()) as cluster:
        cluster.wait_for_workers(2, deadline=240)
        yield cluster
    assert not left_by(hadoop, cluster.app_id)


def left_by(hadoop: Sandbox, application: str) -> list[str]:
    """What is there of an application that has ended: processes after some time, and files in HDFS."""
    ends: list[psutil.Process] = containers_of(hadoop, application)
    _, alive = psutil.wait_procs(ends, timeout=90)
    found = [f"{process.pid} {' '.join(process.cmdline())}" for process in alive]
    return [*found, *({application} & staged())]


def _master_of(hadoop: Sandbox, application: str) -> psutil.Process:
    """The Java process of skein's application master."""
    (found,) = [process for process in containers_of(hadoop, application) if process.name() == "java"]
    return found


def test_without_its_master_a_training_ends_clearly_and_goes_on_elsewhere(
    hadoop: Sandbox, survivor: Any, problem: Problem, local: dict[str, Any]
) -> None:
    """YARN takes the containers along: one message says how to go on; on another cluster the weights are the same."""
    config = in_hdfs(hadoop, "master")
    with cosdask.YarnCluster(2, **options()) as cluster:
        name = cluster.app_id
        cluster.wait_for_workers(2, deadline=240)
        with Client(cluster) as client:
            kills = Acting(_master_of(hadoop, name).kill, after=12)
            with pytest.raises(GroupError, match="Bring a cluster up and go on with --resume"):
                cosdask.CaffeOnDask(client, config, consumers=[kills]).train()
    assert left_by(hadoop, name) == []
    with yarn_client() as asking:
        assert str(report_of(asking, name).state) == "FAILED"
    seen = Kept()
    with Client(survivor) as client:
        result = cosdask.CaffeOnDask(client, in_hdfs(hadoop, "master", resume=True), consumers=[seen]).train()
    assert [event.start_iteration >= 10 for event in seen.events if isinstance(event, RunStarted)] == [True]
    assert_same(result.params, local["params"])


def test_a_training_outlives_the_manager_of_a_workers_node(
    hadoop: Sandbox, survivor: Any, problem: Problem, local: dict[str, Any]
) -> None:
    """Its containers go on; YARN replaces them once it counts the node as lost, and the next training works, too."""
    with Client(survivor) as client:
        hosts = {record["host"] for record in client.scheduler_info()["workers"].values()}
        manager = f"nm{int(max(hosts).rpartition('.')[2]) - 2}"
        kills = Acting(lambda: hadoop.kill(manager), after=5)
        try:
            result = cosdask.CaffeOnDask(client, in_hdfs(hadoop, "manager"), consumers=[kills]).train()
            assert kills.done and result.status == "done"
            assert_same(result.params, local["params"])
            # the node is lost: its containers are started again elsewhere
            until(lambda: len(client.scheduler_info()["workers"]) > 2, 120)
            again = cosdask.CaffeOnDask(client, in_hdfs(hadoop, "manager2")).train()
            assert_same(again.params, local["params"])
        finally:
            hadoop.launch(manager)
            hadoop.wait(90)
