"""Other ways into a real HDFS: a nameservice with a dead NameNode, a mount table, and HTTP where RPC is closed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from google.protobuf import text_format

from cosdask.cluster.sandbox import Sandbox
from cosdask.data import open_source, write_lmdb, write_parquet
from cosdask.errors import StorageError
from cosdask.parallel.group import Member
from cosdask.parallel.locality import Locality, arranged, places_of
from cosdask.proto import caffe_pb2
from cosdask.storage import RangeFile, atomic_write, exists, filesystem, read_bytes, remove, stamp
from cosdask.storage.places import byte_places
from tests.cluster.needs import needs_hadoop
from tests.cluster.test_hdfs_lmdb import images_of, layer
from tests.storage.test_hadoop import write_sites

pytestmark = needs_hadoop
DEAD = "127.0.0.1:9"


@pytest.fixture
def client_of(hadoop: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Points this process at the running HDFS through other site files."""

    def point(**files: dict[str, str]) -> None:
        write_sites(tmp_path / "conf", **files)
        monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path / "conf"))

    return point


def nova(hadoop: Sandbox) -> dict[str, str]:
    """The settings of a nameservice of two NameNodes, of which the first is dead."""
    return {
        "dfs.nameservices": "nova",
        "dfs.ha.namenodes.nova": "nn1,nn2",
        "dfs.namenode.rpc-address.nova.nn1": DEAD,
        "dfs.namenode.rpc-address.nova.nn2": urlsplit(hadoop.namenode).netloc,
        "dfs.namenode.http-address.nova.nn1": DEAD,
        "dfs.namenode.http-address.nova.nn2": urlsplit(hadoop.state["namenode_http"]).netloc,
        "dfs.client.failover.proxy.provider.nova": (
            "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider"
        ),
    }


def test_nameservices_and_mount_tables_work_as_names_of_everything(
    hadoop: Sandbox, client_of: Callable[..., None], tmp_path: Path
) -> None:
    """Written, replaced, listed, read by ranges and as an LMDB under both names; nothing here names a NameNode."""
    mounts = {"fs.viewfs.mounttable.all.link./data": "hdfs://nova/tests/ways"}
    client_of(core={"fs.defaultFS": "viewfs://all", **mounts}, hdfs=nova(hadoop))
    write_lmdb(tmp_path / "rows", images_of(20), range(20))
    try:
        for base in ("hdfs://nova/tests/ways", "viewfs://all/data", "viewfs:///data", "hdfs:///data"):
            atomic_write(f"{base}/model", base)
            assert read_bytes("hdfs://nova/tests/ways/model").decode() == base
            assert stamp(f"{base}/model").size == len(base)
            atomic_write(f"{base}/rows/data.mdb", (tmp_path / "rows" / "data.mdb").read_bytes())
            assert open_source(layer(f"{base}/rows")).rows == 20
            fs, path = filesystem(base)
            assert [fs.unstrip_protocol(name) for name in fs.find(path)] == [
                "hdfs://nova/tests/ways/model",
                "hdfs://nova/tests/ways/rows/data.mdb",
            ]
        # as users name their images
        atomic_write("viewfs:///data/odd?1#2.jpg", b"odd")
        assert read_bytes("hdfs://nova/tests/ways/odd?1#2.jpg") == b"odd"
        with pytest.raises(StorageError, match=r"viewfs:///data/modle: no such file. In .* there is model"):
            read_bytes("viewfs:///data/modle")
    finally:
        fs, path = filesystem("hdfs://nova/tests/ways")
        fs.rm(path, recursive=True)


@pytest.mark.parametrize("asked", ["hdfs", "webhdfs"])
def test_over_http_where_the_rpc_port_is_closed(
    hadoop: Sandbox, client_of: Callable[..., None], tmp_path: Path, asked: str
) -> None:
    """The same files, the same atomic renames, the same refusals; asked for by name, or found out."""
    http = urlsplit(hadoop.state["namenode_http"]).netloc
    client_of(core={"fs.defaultFS": f"hdfs://{DEAD}"}, hdfs={"dfs.namenode.http-address": http})
    base = f"{asked}://{DEAD if asked == 'hdfs' else http}/tests/http"
    data = os.urandom(3 << 20)
    write_lmdb(tmp_path / "rows", images_of(20), range(20))
    try:
        for content in (b"one", data):
            atomic_write(f"{base}/deep/model", content)
            assert read_bytes(f"{base}/deep/model") == content
        with pytest.raises(StorageError, match="already exists"):
            atomic_write(f"{base}/deep/model", b"three", replace=False)
        atomic_write(f"{base}/odd?1#2.jpg", b"odd")
        assert read_bytes(f"{base}/odd?1#2.jpg") == b"odd"
        remove(f"{base}/odd?1#2.jpg")
        fs, path = filesystem(base)
        assert [fs.unstrip_protocol(name) for name in fs.find(path)] == [f"{base}/deep/model"]
        with RangeFile(f"{base}/deep/model") as file:
            assert file.read(1 << 20, 2 << 20) == data[1 << 20 : 2 << 20]
            assert bytes(file.gather([(5, 9), (len(data) - 3, len(data) + 9)])) == data[5:9] + data[-3:]
        atomic_write(f"{base}/rows/data.mdb", (tmp_path / "rows" / "data.mdb").read_bytes())
        assert open_source(layer(f"{base}/rows")).rows == 20
        with pytest.raises(StorageError, match=r"no such file. In .* there is model"):
            read_bytes(f"{base}/deep/modle")
        with pytest.raises(StorageError, match="is a folder"):
            read_bytes(f"{base}/deep")
        fs.client.user = "nobody-known"
        with pytest.raises(StorageError, match="Permission denied: user=nobody-known"):
            atomic_write("/".join((base, "deep", "model")), "x")
    finally:
        fs, path = filesystem(f"{hadoop.namenode}/tests/http")
        fs.rm(path, recursive=True)
    assert not exists(f"{hadoop.namenode}/tests/http")


def test_ranks_go_to_the_workers_whose_hosts_have_their_blocks(hadoop: Sandbox, tmp_path: Path) -> None:
    """Asked of a real NameNode: the first rows lie on the second worker's host, the others on the first one's."""
    base = f"{hadoop.namenode}/tests/near"
    members = [Member(f"tcp://{host}:1", host, host, 1) for host in ("127.0.0.2", "127.0.0.3")]
    try:
        for part, member in enumerate(reversed(members)):
            write_parquet(tmp_path / "part", images_of(30)[:, None], range(30))
            _put_on(member.host, f"{base}/rows/part-{part}.parquet", (tmp_path / "part").read_bytes())
        rows = text_format.Parse(
            'name: "d" type: "MemoryData" top: "data" top: "label" source_class: "ImageDataFrame" '
            f'memory_data_param {{ source: "{base}/rows" batch_size: 5 channels: 1 height: 40 width: 40 }}',
            caffe_pb2.LayerParameter(),
        )
        found = Locality.from_json(places_of(open_source(rows)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cosdask.parallel.locality.ask_workers", lambda *_: {})
            placed = arranged(None, members, found, devices=1, threads=None)  # type: ignore[arg-type]
        assert placed.members == members[::-1] and placed.share == 1
        assert len(found.pieces) == 2 and found.problem == ""
    finally:
        fs, path = filesystem(base)
        fs.rm(path, recursive=True)


def _put_on(host: str, url: str, data: bytes) -> None:
    """Write a file whose one copy lies on a host; the NameNode chooses, so until it does."""
    fs, path = filesystem(url)
    fs.makedirs(os.path.dirname(path), exist_ok=True)
    for _ in range(60):
        with fs.open(path, "wb", replication=1) as file:
            file.write(data)
        if all(host in block.hosts for block in byte_places(url)):
            return
    raise AssertionError(f"no block came to {host}")
