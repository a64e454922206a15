"""Files in a real HDFS: whole or absent, also when a DataNode dies; refusals in one line."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cosdask.cluster.sandbox import Sandbox
from cosdask.errors import StorageError
from cosdask.storage import RunFolder, atomic_write, exists, filesystem, read_bytes, read_text, stamp
from tests.cluster.needs import needs_hadoop

pytestmark = needs_hadoop


@pytest.fixture
def folder(hadoop: Sandbox, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty folder in HDFS."""
    url = f"{hadoop.namenode}/tests/{request.node.name}"
    yield url
    fs, path = filesystem(url)
    fs.rm(path, recursive=True)


def test_a_file_is_replaced_whole_and_its_change_is_seen(folder: str) -> None:
    """A new content takes the old one's place in one step; its stamp tells that it changed (invariants 4 and 7)."""
    atomic_write(f"{folder}/deep/model", b"one")
    before = stamp(f"{folder}/deep/model")
    atomic_write(f"{folder}/deep/model", b"two")
    assert read_bytes(f"{folder}/deep/model") == b"two"
    after = stamp(f"{folder}/deep/model")
    assert after.size == before.size and after != before and after.changed
    with pytest.raises(StorageError, match="already exists"):
        atomic_write(f"{folder}/deep/model", b"three", replace=False)
    assert read_bytes(f"{folder}/deep/model") == b"two"
    fs, path = filesystem(f"{folder}/deep")
    assert [Path(entry).name for entry in fs.ls(path, detail=False)] == ["model"]


def test_refusals_are_one_line_and_leave_nothing(hadoop: Sandbox, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No permission, a full quota, a missing file, a folder read as a file: the message has no Java in it."""
    atomic_write(f"{folder}/here", "x")
    with pytest.raises(StorageError, match="no such file") as caught:
        read_text(f"{folder}/hree")
    assert "In " in caught.value.message and "here" in caught.value.message
    with pytest.raises(StorageError, match="is a folder"):
        read_text(folder)
    _set_quota(hadoop, folder, 10)
    with pytest.raises(StorageError, match="quota") as caught:
        atomic_write(f"{folder}/large", b"x" * 1000)
    assert "\n" not in caught.value.message and "org.apache" not in caught.value.message
    assert not exists(f"{folder}/large")
    _set_quota(hadoop, folder, -1)
    fs, _ = filesystem(folder)
    type(fs).clear_instance_cache()
    monkeypatch.setenv("HADOOP_USER_NAME", "nobody-known")
    try:
        with pytest.raises(StorageError, match="Permission denied: user=nobody-known") as caught:
            atomic_write(f"{folder}/secret", "x")
    finally:
        type(fs).clear_instance_cache()
    assert "\n" not in caught.value.message


def test_a_datanode_that_dies_costs_seconds(hadoop: Sandbox, folder: str) -> None:
    """Files are read and written on, whole, while one of two DataNodes is gone."""
    data = os.urandom(3 << 20)
    atomic_write(f"{folder}/before", data)
    hadoop.kill("dn0")
    try:
        assert read_bytes(f"{folder}/before") == data
        for i in range(3):
            atomic_write(f"{folder}/snapshot", data[i:])
            assert read_bytes(f"{folder}/snapshot") == data[i:]
        # written as one copy until HDFS makes the other, once there is a place for it
        status = filesystem(folder)[0].client.get_file_info(filesystem(f"{folder}/snapshot")[1])
        assert status.replication == 2
    finally:
        hadoop.launch("dn0")
        hadoop.wait(60)


def test_two_processes_add_events_to_one_run_folder(folder: str) -> None:
    """The driver and rank 0 both tell events: no part of one replaces a part of the other."""
    with RunFolder(f"{folder}/small.run") as one, RunFolder(f"{folder}/small.run") as two:
        for i in range(3):
            one.append_event({"kind": "one", "i": i})
            two.append_event({"kind": "two", "i": i})
            number = one._next_part()
            two._next_part = lambda number=number: number  # type: ignore[method-assign]
            one.flush()
            two.flush()
    found = [(event["kind"], event["i"]) for event in RunFolder(f"{folder}/small.run").read_events()]
    assert sorted(found) == sorted((kind, i) for kind in ("one", "two") for i in range(3))


def _set_quota(hadoop: Sandbox, url: str, count: int) -> None:
    """Limits the bytes in a folder, as an administrator does; -1 lifts the limit."""
    import getpass

    path = filesystem(url)[1]
    limit = "namespacequota=9223372036854775807&storagespacequota=" + str(count if count > 0 else 9223372036854775807)
    address = f"{hadoop.state['namenode_http']}/webhdfs/v1{path}?op=SETQUOTA&{limit}&user.name={getpass.getuser()}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(address, method="PUT"), timeout=10) as answer:
        assert answer.status == 200
