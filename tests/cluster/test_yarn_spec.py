"""What is asked of YARN: the whole specification, compared as text; and what is refused before anything is asked.

``COSDASK_WRITE_GOLDEN=1`` writes the files that are compared with; read them before they are kept.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

import cosdask
from cosdask.cluster import gpus
from cosdask.cluster.gpus import claim_gpu
from cosdask.cluster.yarn_logs import application_logs
from cosdask.cluster.yarn_spec import YarnOptions, check_hadoop, hadoop_setting, mebibytes
from cosdask.errors import ConfigError, StorageError

GOLDEN = Path(__file__).parent / "specifications"
PYTHON = "python:///opt/python/bin/python3"

CASES: dict[str, dict[str, Any]] = {
    "plain": {"environment": PYTHON},
    "gpu": {
        "environment": "venv:///opt/cosdask",
        "worker_gpus": 1,
        "worker_vcores": 8,
        "worker_memory": "48 GiB",
        "queue": "gpu",
        "node_label": "a100",
        "files": {"mean.binaryproto": "{tmp}/mean.binaryproto"},
    },
    "tls": {
        "environment": PYTHON,
        "scheduler": "client",
        "tls": {name: f"{{tmp}}/{name}.pem" for name in ("tls_ca_file", "tls_cert", "tls_key")},
    },
    "kerberos": {
        "environment": "conda://cosdask",
        "user": "trainer",
        "file_systems": ["hdfs://archive:8020"],
        "idle_timeout": None,
        "tags": ["nightly"],
    },
    "archive": {
        "environment": "hdfs:///user/trainer/environments/4f2a.tar.gz",
        "worker_env": {"HADOOP_USER_NAME": "trainer", "NPROC": "3"},
        "worker_restarts": 2,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_the_specification_is_exactly_this(case: str, tmp_path: Path) -> None:
    """A dry run prints every word that YARN would get, and needs no cluster."""
    for name in ("mean.binaryproto", "tls_ca_file.pem", "tls_cert.pem", "tls_key.pem"):
        (tmp_path / name).touch()
    options = {
        key: {name: text.format(tmp=tmp_path) for name, text in value.items()} if key in ("files", "tls") else value
        for key, value in CASES[case].items()
    }
    text = cosdask.YarnCluster.dry_run(2, **options).replace(str(tmp_path), "/home/trainer")
    kept = GOLDEN / f"{case}.yaml"
    if os.environ.get("COSDASK_WRITE_GOLDEN"):
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(text)
    assert text == kept.read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "no environment for the containers"),
        ({"environment": "vnev:///opt/x"}, 'Did you mean "venv"'),
        ({"environment": PYTHON, "worker_gpus": 2}, "one GPU or none"),
        ({"environment": PYTHON, "worker_memory": "4"}, "less than 1 MiB"),
        ({"environment": PYTHON, "worker_memory": "lots"}, "is not a size"),
        ({"environment": PYTHON, "scheduler": "cleint"}, 'Did you mean "client"'),
        ({"environment": PYTHON, "worker_vcore": 2}, 'Did you mean "worker_vcores"'),
        ({"environment": PYTHON, "files": {"a/b": "x"}}, "names in the containers are plain"),
        ({"environment": PYTHON, "tls": {"tls_cert": "x"}}, "tls needs the files"),
        ({"environment": "env.zipp"}, "no such environment archive"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_asked(options: dict[str, Any], said: str) -> None:
    """The option is named, with the remedy, without a cluster."""
    with pytest.raises((ConfigError, StorageError), match=said):
        cosdask.YarnCluster.dry_run(2, **options)


def test_a_machine_that_is_no_client_of_a_hadoop_is_told_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the configuration, then the command; damaged configuration is named by file."""
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    with pytest.raises(ConfigError, match="HADOOP_CONF_DIR is not set"):
        cosdask.YarnCluster(1, environment=PYTHON)
    monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no yarn command on PATH"):
        check_hadoop()
    with pytest.raises(ConfigError, match="no yarn command on PATH"):
        application_logs("application_1700000000000_0001")
    with pytest.raises(ConfigError, match="is no application id"):
        application_logs("--help")
    assert hadoop_setting("core-site.xml", "fs.defaultFS") == ""
    (tmp_path / "core-site.xml").write_text("<configuration><property>")
    with pytest.raises(ConfigError, match=r"core-site\.xml: not a Hadoop configuration"):
        hadoop_setting("core-site.xml", "fs.defaultFS")


def test_sizes_are_rounded_up() -> None:
    """A container is never smaller than what was asked for."""
    assert mebibytes((1 << 20) + 1, "x") == 2
    assert YarnOptions(1, worker_memory="1500 MB").worker_memory == "1500 MB"


def test_workers_on_a_node_claim_different_gpus(tmp_path: Path) -> None:
    """Where YARN does not keep GPUs apart, each worker takes one that no other has, and gives it back at its end."""
    devices = [tmp_path / f"nvidia{i}" for i in range(2)]
    for device in devices:
        device.touch()
    first, second = claim_gpu(devices, tmp_path), claim_gpu(devices, tmp_path)
    assert {first.number, second.number} == {0, 1}
    with pytest.raises(ConfigError, match="no free GPU on this node: 2 looked at"):
        claim_gpu(devices, tmp_path)
    second.release()
    third = claim_gpu(devices, tmp_path)
    assert third.number == second.number
    third.release()
    first.release()


def test_locks_of_other_users_are_shared_or_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock file is readable for all who come later, whatever its maker's mask; one that is not costs its GPU only."""
    devices = [tmp_path / f"nvidia{i}" for i in range(2)]
    for device in devices:
        device.touch()
    before = os.umask(0o077)
    try:
        claim_gpu(devices, tmp_path).release()
    finally:
        os.umask(before)
    assert (tmp_path / "cosdask-gpu-0.lock").stat().st_mode & 0o777 == 0o644
    opened = gpus._opened

    def refuse(path: Path) -> int:
        if path.name == "cosdask-gpu-0.lock":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path)

    monkeypatch.setattr(gpus, "_opened", refuse)
    claim = claim_gpu(devices, tmp_path)
    assert claim.number == 1
    claim.release()


def test_a_gpu_that_yarn_keeps_from_a_container_is_passed_over(tmp_path: Path) -> None:
    """What cannot be opened belongs to another container; a link in the folder of locks is not followed."""
    devices = [tmp_path / "nvidia0", tmp_path / "nvidia1", tmp_path / "nvidiactl"]
    devices[1].touch()
    devices[2].touch()
    claim = claim_gpu(devices, tmp_path)
    assert claim.number == 1
    claim.release()
    other = tmp_path / "precious"
    other.touch()
    locks = tmp_path / "locks"
    locks.mkdir()
    (locks / "cosdask-gpu-1.lock").symlink_to(other)
    with pytest.raises(OSError):
        claim_gpu(devices, locks)
    with other.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
