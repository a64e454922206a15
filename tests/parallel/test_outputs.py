"""Outputs on the client's own disk are refused before work starts where a worker would write elsewhere."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest_parallel import config
from distributed import Client
from problems import Problem

import cosdask
from cosdask.errors import StorageError
from cosdask.parallel.group import wait_for_members
from cosdask.parallel.outputs import check_shared

#: a number that no worker has a file under
_HANDLE = 700


@pytest.fixture
def own(tmp_path: Path) -> Iterator[str]:
    """A folder by a name that leads there in this process alone, as on a machine without workers."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs Linux's /proc")
    (tmp_path / "own").mkdir()
    opened = os.open(tmp_path / "own", os.O_RDONLY)
    handle = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _HANDLE)
    os.close(opened)
    yield f"/proc/self/fd/{handle}"
    os.close(handle)


def test_a_model_that_would_not_arrive_is_refused_before_anything_is_written(
    client: Client, problem: Callable[..., Problem], own: str
) -> None:
    """Without its run folder nothing could be gone on from; the remedy is named."""
    settings = config(problem(rows=20), model=f"{own}/out/small.caffemodel")
    with pytest.raises(StorageError, match=r"worker 0 at 127\.0\.0\.1 does not see .*hdfs://.*file://"):
        cosdask.CaffeOnDask(client, settings).train()
    assert not os.listdir(own)


def test_features_that_would_not_arrive_are_refused(client: Client, own: str, tmp_path: Path) -> None:
    """A place that all see is fine, also where its folder is still to be made; so is a URL."""
    for output in (str(tmp_path / "new" / "features"), "hdfs://namenode/features", ""):
        cosdask.CaffeOnDask(client, cosdask.Config(conf="s", model="m", output=output)).check_output()
    job = cosdask.CaffeOnDask(client, cosdask.Config(conf="s", model="m", output=f"{own}/features"))
    with pytest.raises(StorageError, match=r"features: worker 0 at 127\.0\.0\.1 does not see"):
        job.check_output()
    assert [path.name for path in tmp_path.iterdir()] == ["own"] and not os.listdir(own)


def test_a_place_that_takes_no_file_is_named(client: Client) -> None:
    """Also before work starts."""
    members = wait_for_members(client, 3, None, 10.0)
    with pytest.raises(StorageError, match=r"/proc/none/model: cannot be written"):
        check_shared(client, members, ["/proc/none/model"])
