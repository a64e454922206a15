"""Hadoop's site files: nameservices, mount tables, and the ways to a NameNode."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from cosdask.errors import ConfigError, StorageError
from cosdask.storage import filesystem, hadoop

Sites = Callable[..., None]


def write_sites(folder: Path, **files: Mapping[str, str]) -> None:
    """Site files as administrators write them; ``core={...}`` becomes core-site.xml."""
    folder.mkdir(exist_ok=True)
    for name, settings in files.items():
        rows = "".join(
            f"<property><name>{key}</name><value>{value}</value></property>" for key, value in settings.items()
        )
        (folder / f"{name}-site.xml").write_text(f"<configuration>{rows}</configuration>")


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sites:
    """Writes site files and points this process at them."""
    monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path / "conf"))
    return lambda **files: write_sites(tmp_path / "conf", **files)


@pytest.fixture
def port() -> Iterator[int]:
    """A port that takes connections."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


TABLE = "fs.viewfs.mounttable.all"


@pytest.mark.parametrize(
    ("url", "real"),
    [
        ("hdfs://nova/a", "hdfs://nova/a"),
        ("viewfs://all/data", "hdfs://nova/mounted"),
        ("viewfs://all/data/a/b", "hdfs://nova/mounted/a/b"),
        ("viewfs:///data/a", "hdfs://nova/mounted/a"),
        ("viewfs://all/data/deep/x", "hdfs://other:8020/deep/x"),
        ("hdfs:///data/a", "hdfs://nova/mounted/a"),
    ],
)
def test_mount_tables_lead_to_real_names(sites: Sites, url: str, real: str) -> None:
    """The longest link counts, also for names that count from a default filesystem that is a mount table."""
    links = {f"{TABLE}.link./data": "hdfs://${home}/mounted", f"{TABLE}.link./data/deep": "hdfs://other:8020/deep/"}
    sites(core={"home": "nova", "fs.defaultFS": "viewfs://all", **links})
    assert hadoop.real_url(url) == real


def test_what_no_link_holds_goes_to_the_fallback_or_is_an_error(sites: Sites) -> None:
    """The error says what is mounted; /data2 is not below /data."""
    sites(core={f"{TABLE}.link./data": "hdfs://nova/mounted"})
    with pytest.raises(StorageError, match=r"all has no place for it; it mounts /data"):
        filesystem("viewfs://all/data2/x")
    with pytest.raises(StorageError, match=r"core-site.xml says nothing of it"):
        filesystem("viewfs://none/x")
    sites(core={f"{TABLE}.link./data": "hdfs://nova/mounted", f"{TABLE}.linkFallback": "hdfs://nova/rest"})
    os.utime(Path(hadoop.conf_folder()) / "core-site.xml", ns=(1, 1))
    assert hadoop.real_url("viewfs://all/data2/x") == "hdfs://nova/rest/data2/x"


def test_the_addresses_of_namenodes(sites: Sites) -> None:
    """Those of a nameservice, of the one NameNode that the files speak of, and Hadoop's own ports for others."""
    named = {"dfs.ha.namenodes.nova": "a, b"}
    for name in ("a", "b"):
        named[f"dfs.namenode.rpc-address.nova.{name}"] = f"node-{name}:9000"
        named[f"dfs.namenode.http-address.nova.{name}"] = "0.0.0.0:9001"
    sites(core={"fs.defaultFS": "hdfs://nova"}, hdfs=named)
    assert hadoop.rpc_addresses("nova") == ["node-a:9000", "node-b:9000"]
    assert hadoop.http_addresses("nova") == ["http://node-a:9001", "http://node-b:9001"]
    assert hadoop.rpc_addresses("far") == ["far:8020"] and hadoop.http_addresses("far:1") == ["http://far:9870"]
    sites(core={"fs.defaultFS": "hdfs://one:9000"}, hdfs={"dfs.namenode.http-address": "one:1234"})
    os.utime(Path(hadoop.conf_folder()) / "hdfs-site.xml", ns=(1, 1))
    os.utime(Path(hadoop.conf_folder()) / "core-site.xml", ns=(1, 1))
    assert hadoop.http_addresses("one:9000") == ["http://one:1234"]
    assert hadoop.http_addresses("two:9000") == ["http://two:9870"]


def test_an_open_http_port_is_the_way_where_rpc_is_closed(sites: Sites, port: int) -> None:
    """Both closed is an error at once, in words, where the client would wait and retry (invariant 6)."""
    dead = "127.0.0.1:9"
    sites(core={"fs.defaultFS": f"hdfs://{dead}"}, hdfs={"dfs.namenode.http-address": f"127.0.0.1:{port}"})
    assert hadoop.way_to(dead) == "http" and hadoop.way_to(f"127.0.0.1:{port}") == "rpc"
    with pytest.raises(StorageError, match=r"no NameNode takes connections, neither at 127.0.0.1:8 nor .*:9870"):
        hadoop.way_to("127.0.0.1:8")


def test_a_damaged_site_file_is_named(sites: Sites) -> None:
    """Not a parser's trace."""
    sites(core={"fs.defaultFS": "<"})
    with pytest.raises(ConfigError, match=r"core-site\.xml: not a Hadoop configuration"):
        hadoop.default_filesystem()
