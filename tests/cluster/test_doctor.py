"""The doctor: what would keep a run from working is found before the run, with its remedy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from conftest_hadoop import run_cosdask

from cosdask.cluster import doctor
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
