"""The containers' Python on a real YARN: an archive that nodes unpack once, and an environment that is there."""

from __future__ import annotations

import site
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from conftest_hadoop import options
from distributed import Client, Security

import cosdask
from cosdask.cluster.package import package
from cosdask.cluster.sandbox import Sandbox
from tests.cluster.needs import needs_hadoop

pytestmark = [needs_hadoop, pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment, small enough to be packed by a test: what it needs besides cosdask lies outside."""
    root = tmp_path_factory.mktemp("environments") / "small"
    venv.create(root, with_pip=False)
    place = root / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    outside = [path for path in [*site.getsitepackages(), *sys.path] if path.endswith("site-packages")]
    (place / "outside.pth").write_text(f"import sys; sys.path.extend({outside!r})\n")
    return root


def _ask(environment: str) -> list[tuple[str, str]]:
    """Where the workers of an application of its own have their cosdask, and their interpreter."""

    def place() -> tuple[str, str]:
        import os
        import sys

        import cosdask

        return os.path.realpath(os.path.dirname(cosdask.__file__)), sys.prefix

    plain = options()
    given = {**plain, "worker_env": {k: v for k, v in plain["worker_env"].items() if k != "PYTHONPATH"}}
    with cosdask.YarnCluster(2, **{**given, "environment": environment}) as cluster:
        cluster.wait_for_workers(2, deadline=240)
        with Client(cluster) as client:
            return list(client.run(place).values())


def test_an_archive_is_unpacked_once_a_node(hadoop: Sandbox, environment: Path) -> None:
    """What `cosdask package` made runs in the containers; the next application finds it unpacked (YARN's cache)."""
    folder = f"{hadoop.namenode}/tests/environments"
    name, made = package(folder, str(environment))
    assert made and package(folder, str(environment)) == (name, False)
    for package_folder, _ in _ask(name):
        assert "/filecache/" in package_folder and name.rpartition("/")[2] in package_folder
    before = _unpacked(hadoop, name)
    assert before
    _ask(name)
    after = _unpacked(hadoop, name)
    assert before.items() <= after.items()
    assert len(after) <= len([node for node in hadoop.names() if node.startswith("nm")])


def _unpacked(hadoop: Sandbox, name: str) -> dict[Path, int]:
    """The archive's copies on the nodes, and which files they are."""
    found = hadoop.folder.glob(f"nm*/local/usercache/*/filecache/*/{name.rpartition('/')[2]}")
    return {path: path.stat().st_ino for path in found}


def test_an_environment_that_is_on_every_node(hadoop: Sandbox, environment: Path, repository: Path) -> None:
    """``venv://`` brings no file, and its interpreter runs the workers."""
    package_folder = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (package_folder / "checkout.pth").write_text(f"import sys; sys.path.insert(0, {str(repository)!r})\n")
    try:
        assert {prefix for _, prefix in _ask(f"venv://{environment}")} == {str(environment)}
    finally:
        (package_folder / "checkout.pth").unlink()


def test_a_cluster_that_speaks_tls(hadoop: Sandbox, problem: Any, local: dict[str, Any]) -> None:
    """Scheduler, workers and client use the user's certificates, whoever has none is not heard; weights stay equal."""
    import numpy as np
    from conftest_hadoop import hdfs_folder

    from cosdask.storage import join

    security = Security.temporary()
    base = hdfs_folder(hadoop)
    with cosdask.YarnCluster(2, security=security, **options()) as cluster:
        assert cluster.scheduler_address.startswith("tls://")
        cluster.wait_for_workers(2, deadline=240)
        with Client(cluster) as client:
            addresses = client.scheduler_info(n_workers=-1)["workers"]
            assert len(addresses) == 2 and all(address.startswith("tls://") for address in addresses)
            conf, model = join(base, "solver.prototxt"), join(base, "tls/small.caffemodel")
            config = cosdask.Config(conf=conf, model=model, progress="none", clusterSize=2, worker_deadline=120)
            params = cosdask.CaffeOnDask(client, config).train().params
        with pytest.raises((OSError, TypeError)):
            Client(cluster.scheduler_address, timeout=5)
        with cosdask.YarnCluster.from_application_id(cluster.app_id, security=security) as again:
            assert again.scheduler_address == cluster.scheduler_address
    for name, blobs in local["params"].items():
        for mine, other in zip(params[name], blobs, strict=True):
            np.testing.assert_array_equal(mine, other)
