"""The doctor: what would keep a run from working is found before the run, with its remedy."""

from __future__ import annotations

import tarfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest_hadoop import run_cosdask

from cosdask.cluster import doctor
from cosdask.cluster.doctor_archive import check_environment
from cosdask.errors import StorageError
from cosdask.storage import atomic_write
from cosdask.storage.hdfs import Hdfs

HEALTHY = {**doctor.facts(), "free": 100 << 30, "files": 65536, "address": "10.0.0.7", "name": "node7"}


class _Client:
    """Answers like a Dask client whose workers said what they are made to say."""

    def __init__(self, facts: dict[str, dict[str, Any]], unreachable: str = "") -> None:
        self._facts, self._unreachable = facts, unreachable

    def run(self, function: Any, *_: Any) -> dict[str, Any]:
        if function is doctor.facts:
            return {
                address: {**found, "time": time.time() + found.get("ahead", 0)}
                for address, found in self._facts.items()
            }
        if len(_) == 0:
            return {address: ("127.0.0.1", 1) for address in self._facts}
        return {address: {other: self._unreachable for other in self._facts} for address in self._facts}

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        return {"workers": {address: {"name": f"w{i}", "host": "node"} for i, address in enumerate(self._facts)}}


@pytest.mark.parametrize(
    ("change", "state", "said"),
    [
        ({"free": 1 << 20}, doctor.BAD, "GiB free in the working folder"),
        ({"address": "127.0.1.1"}, doctor.NOTE, "leads to 127.0.1.1"),
        ({"address": ""}, doctor.NOTE, "leads nowhere"),
        ({"files": 256}, doctor.NOTE, "only 256 open files"),
        ({"python": "3.9.2"}, doctor.BAD, "Python 3.9.2, the client has"),
        ({"versions": {**HEALTHY["versions"], "dask": "2019.1"}}, doctor.BAD, "dask 2019.1, the client has"),
        ({"versions": {**HEALTHY["versions"], "numpy": "1.26"}}, doctor.NOTE, "numpy 1.26, the client has"),
        ({"ahead": 900}, doctor.NOTE, "its clock differs by 900 s"),
        ({"gpus": 2, "cuda": 0}, doctor.NOTE, "2 GPU(s), but JAX computes on the CPU"),
        ({"gpus": 1, "cuda": 12, "driver": "470.82"}, doctor.BAD, "NVIDIA's driver is 470.82"),
        ({"gpus": 1, "cuda": 13, "driver": ""}, doctor.BAD, "NVIDIA's driver is missing"),
    ],
)
def test_each_ill_is_named_with_its_remedy(change: dict[str, Any], state: str, said: str) -> None:
    """On the worker that has it, and only there."""
    client = _Client({"tcp://a": HEALTHY, "tcp://b": {**HEALTHY, **change}})
    found = [finding for finding in doctor.check_workers(client, hdfs=False) if finding.state != doctor.GOOD]
    assert [(finding.where, finding.state) for finding in found] == [("w1 at node", state)]
    assert said in found[0].what and found[0].remedy


def test_workers_that_do_not_reach_each_other_are_named() -> None:
    """A firewall between nodes would let the ranks wait for each other until their deadline."""
    found = list(doctor.check_workers(_Client({"tcp://a": HEALTHY}, unreachable="No route to host"), hdfs=False))
    assert "cannot reach a port of w0 at node: No route to host" in found[-1].what and found[-1].state == doctor.BAD


def test_drivers_that_differ_are_named() -> None:
    """Ranks on different drivers may compute with different kernels, so numbers may differ (invariant 4)."""
    gpu = {**HEALTHY, "gpus": 1, "cuda": 12}
    client = _Client({"tcp://a": {**gpu, "driver": "550.1"}, "tcp://b": {**gpu, "driver": "535.2"}})
    found = [finding for finding in doctor.check_workers(client, hdfs=False) if finding.state != doctor.GOOD]
    assert [finding.what for finding in found] == ["NVIDIA's drivers differ: 535.2, 550.1"] and found[0].remedy


class _Yarn:
    """Answers like skein's client."""

    def __init__(self, memory: int = 4096, gpus: int = 0, state: str = "RUNNING") -> None:
        resources = SimpleNamespace(memory=memory, vcores=4, gpus=gpus)
        self._nodes = [SimpleNamespace(total_resources=resources)] if memory else []
        self._state = state

    def get_nodes(self, states: list[str]) -> list[Any]:
        return self._nodes

    def get_queue(self, name: str) -> Any:
        if name != "research":
            raise ValueError(name)
        return SimpleNamespace(name=name, state=self._state)

    def get_all_queues(self) -> list[Any]:
        return [SimpleNamespace(name="research")]


@pytest.mark.parametrize(
    ("yarn", "wanted", "said"),
    [
        (_Yarn(), {"queue": "research"}, ""),
        (_Yarn(memory=0), {"queue": "research"}, "YARN has no node running"),
        (_Yarn(), {"queue": "reserch"}, "YARN has no queue reserch"),
        (_Yarn(state="STOPPED"), {"queue": "research"}, "the queue research is stopped"),
        (_Yarn(), {"queue": "research", "worker_memory": "8 GiB"}, "no node has room for a worker of 8192 MiB"),
        (
            _Yarn(),
            {"queue": "research", "worker_gpus": 1},
            "no node has room for a worker of 2048 MiB",
        ),
    ],
)
def test_what_yarn_could_not_run_is_named(yarn: _Yarn, wanted: dict[str, Any], said: str) -> None:
    """A container that fits nowhere, or a queue that takes nothing, would be waited for until the deadline."""
    found = [finding for finding in doctor.check_yarn(yarn, wanted) if finding.state == doctor.BAD]
    assert [finding.what.startswith(said) and bool(finding.remedy) for finding in found] == ([True] if said else [])


def _archive(path: Path, names: list[str], python: str = "python3") -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            if name == "bin/python":
                member.type, member.linkname = tarfile.SYMTYPE, python
            archive.addfile(member)
    return str(path)


MINOR = ".".join(doctor.facts()["python"].split(".")[:2])
SITE = f"lib/python{MINOR}/site-packages"
WHOLE = [
    "bin/python",
    f"{SITE}/cosdask/__init__.py",
    *(f"{SITE}/{name}-{version}.dist-info/RECORD" for name, version in doctor.facts()["versions"].items()),
]


@pytest.mark.parametrize(
    ("names", "python", "state", "said"),
    [
        (WHOLE, "python3", doctor.GOOD, f"holds Python {MINOR}"),
        (WHOLE, "/usr/bin/python3", doctor.NOTE, "its Python is a link to /usr/bin/python3"),
        (WHOLE[1:], "", doctor.BAD, "holds no bin/python"),
        (["bin/python"], "", doctor.BAD, "holds no cosdask"),
        ([*WHOLE, f"{SITE}/dask-2019.1.dist-info/RECORD"], "python3", doctor.BAD, "dask 2019.1, the client has"),
        ([name.replace(MINOR, "3.8") for name in WHOLE], "python3", doctor.BAD, "Python 3.8.x, the client has"),
    ],
)
def test_an_environment_archive_is_looked_into(
    tmp_path: Path, names: list[str], python: str, state: str, said: str
) -> None:
    """An archive that cannot work would cost an application that fails after a minute."""
    found = list(check_environment(_archive(tmp_path / "env.tar.gz", names, python)))
    assert found[0].state == state and said in found[0].what
    assert found[0].remedy or state == doctor.GOOD


def test_an_environment_that_is_no_archive(tmp_path: Path) -> None:
    """Cut short, missing, of an unknown kind; others are seen on the nodes only."""
    name = _archive(tmp_path / "env.tar.gz", WHOLE)
    data = Path(name).read_bytes()
    Path(name).write_bytes(data[: len(data) // 2])
    wrong = [name, str(tmp_path / "none.tar.gz"), "conda5://env"]
    assert [next(check_environment(place)).state for place in wrong] == [doctor.BAD] * 3
    assert next(check_environment("venv:///opt/env")).state == doctor.NOTE
    assert list(check_environment("")) == []


def test_without_a_hadoop_it_says_what_to_set_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code tells scripts; the remedy tells people. A URL without a NameNode fails at once, in one line."""
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    assert run_cosdask("doctor") == 1
    assert "HADOOP_CONF_DIR is not set" in capsys.readouterr().out
    assert run_cosdask("doctor", "--no-hadoop") == 0
    assert "a run can work here" in capsys.readouterr().out
    monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path))
    Hdfs.clear_instance_cache()
    with pytest.raises(StorageError, match="names no NameNode"):
        atomic_write("hdfs:///x", "y")
