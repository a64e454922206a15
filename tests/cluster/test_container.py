"""What a worker's container does before Dask takes over: its name, its addresses, its GPU."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cosdask.cluster import gpus, yarn_container


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """A container on a node with two GPUs; what its worker would be started with."""
    properties = SimpleNamespace(
        container_id="dask.worker_3", container_resources=SimpleNamespace(vcores=2, memory=2048)
    )
    application = SimpleNamespace(kv={"dask.scheduler": b"tcp://10.0.0.1:8786"})
    client = SimpleNamespace(from_current=lambda: application)
    fake = SimpleNamespace(properties=properties, ApplicationClient=client)
    monkeypatch.setattr(yarn_container, "skein", lambda: fake)
    monkeypatch.setenv("NM_HOST", "10.0.0.7")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for number in range(2):
        (tmp_path / f"nvidia{number}").touch()
    claim, devices = gpus.claim_gpu, sorted(tmp_path.glob("nvidia*"))
    monkeypatch.setattr(gpus, "claim_gpu", lambda: claim(devices, tmp_path))
    started: list[Any] = []
    monkeypatch.setattr("distributed.cli.dask_worker.main", lambda words, prog_name: started.append(words))
    return started


def test_a_worker_has_its_containers_name_and_says_its_own_address(container: list[Any]) -> None:
    """Scaling down ends workers by name; left to itself Dask would listen on every interface and tell any of them."""
    yarn_container.main(["worker"])
    (words,) = container
    assert words[0] == "tcp://10.0.0.1:8786"
    given = dict(itertools.pairwise(words))
    assert given["--name"] == "dask.worker_3" and given["--host"] == "10.0.0.7"
    assert given["--dashboard-address"] == "10.0.0.7:0"
    assert (given["--nthreads"], given["--memory-limit"]) == ("2", "2048MiB") and "--nanny" in words
    assert "--tls-ca-file" not in words and "CUDA_VISIBLE_DEVICES" not in os.environ


def test_workers_of_one_node_take_different_gpus(container: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """While one worker lives, the next takes the other GPU; a GPU that YARN gave is taken as it is."""
    seen = []

    def worker(words: list[str], prog_name: str) -> None:
        seen.append(os.environ.pop("CUDA_VISIBLE_DEVICES"))
        if len(seen) < 2:
            yarn_container.main(["worker", "--gpu"])

    monkeypatch.setattr("distributed.cli.dask_worker.main", worker)
    yarn_container.main(["worker", "--gpu"])
    assert sorted(seen) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    yarn_container.main(["worker", "--gpu"])
    assert seen[2:] == ["5"]
