"""Workers on one machine: each with GPUs of its own. The GPUs are names only: nothing here computes on one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client

import cosdask
from cosdask.cluster.gpus import claim_share, even_shares
from cosdask.errors import ConfigError
from cosdask.parallel import spares


def test_gpus_are_shared_out_evenly() -> None:
    """One a worker by default; several where there are fewer workers; nothing to share where there are more."""
    gpus = ["0", "1", "GPU-8f2a", "3"]
    assert even_shares(gpus, 4) == gpus
    assert even_shares(gpus, 2) == ["0,1", "GPU-8f2a,3"]
    assert even_shares(gpus, 3) == ["0", "1", "GPU-8f2a"]
    assert even_shares(gpus, 5) == even_shares([], 1) == []


def test_a_share_belongs_to_one_worker_at_a_time(tmp_path: Path) -> None:
    """And is free again when its worker has ended; one worker more is told so."""
    first, second = (claim_share(["4", "7"], tmp_path) for _ in range(2))
    assert (first.number, second.number) == (0, 1)
    with pytest.raises(ConfigError, match="no free GPU for another worker: the cluster began with 2"):
        claim_share(["4", "7"], tmp_path)
    first.release()
    again = claim_share(["4", "7"], tmp_path)
    assert again.number == 0
    again.release()
    second.release()


def settings() -> dict[str, str | None]:
    """On a worker: what JAX sees there, and in its rank."""
    names = ("CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_PREALLOCATE")
    rank = spares.environment(1)
    return {
        **{f"worker {name}": os.environ.get(name) for name in names},
        **{f"rank {name}": rank.get(name) for name in names},
        "pid": str(os.getpid()),
    }


def test_each_worker_and_its_rank_have_a_gpu_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers on two GPUs, also after one was killed; tasks leave the GPU's memory to the rank."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)

    def check(found: dict[str, dict[str, str | None]]) -> None:
        assert sorted(str(worker["worker CUDA_VISIBLE_DEVICES"]) for worker in found.values()) == ["4", "7"]
        for worker in found.values():
            assert worker["rank CUDA_VISIBLE_DEVICES"] == worker["worker CUDA_VISIBLE_DEVICES"]
            assert worker["worker XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
            assert worker["rank XLA_PYTHON_CLIENT_PREALLOCATE"] is None

    with cosdask.LocalCluster(threads_per_worker=1) as cluster, Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        before = client.run(settings)
        check(before)
        victim = psutil.Process(int(str(next(iter(before.values()))["pid"])))
        victim.kill()
        victim.wait(30)
        # the one that comes in its place has another address
        gone = next(iter(before))
        client.sync(_until_gone, client, gone)
        client.wait_for_workers(2, timeout=60)
        after = client.run(settings)
        assert {worker["pid"] for worker in after.values()} != {worker["pid"] for worker in before.values()}
        check(after)


async def _until_gone(client: Client, address: str) -> None:
    """Wait until the scheduler knows that a worker has gone."""
    async with asyncio.timeout(60):
        while address in (await client.scheduler.identity(n_workers=-1))["workers"]:
            pass


def test_dask_looks_at_itself_less_often() -> None:
    """Scheduler, nannies and workers leave the cores to the ranks; a pace that the user has chosen stays."""

    def paces(cluster: cosdask.LocalCluster, client: Client) -> set[float]:
        servers = [cluster.scheduler, *cluster.workers.values()]
        (of_worker,) = client.run(lambda dask_worker: dask_worker.periodic_callbacks["tick"].callback_time).values()
        return {of_worker, *(server.periodic_callbacks["tick"].callback_time for server in servers)}

    with cosdask.LocalCluster(1) as cluster, Client(cluster) as client:
        assert paces(cluster, client) == {500.0}
    chosen = dask.config.set({"distributed.admin.tick.interval": "100ms"})
    with chosen, cosdask.LocalCluster(1) as cluster, Client(cluster) as client:
        assert paces(cluster, client) == {100.0}


def test_a_worker_that_dies_again_is_started_again() -> None:
    """Dask looks once, 15 s after a death: where a second one had just taken the worker, it was given up for good."""
    # as if that look came while the worker is away
    at_once = dask.config.set({"distributed.deploy.lost-worker-timeout": "0s"})
    with at_once, cosdask.LocalCluster(n_workers=1, threads_per_worker=1) as cluster, Client(cluster) as client:
        for _ in range(2):
            ((address, pid),) = client.run(os.getpid).items()
            os.kill(pid, signal.SIGKILL)
            client.sync(_until_gone, client, address)
            client.wait_for_workers(1, timeout=60)
        assert len(cluster.workers) == 1
