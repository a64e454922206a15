"""What Hadoop's site files say: NameNodes, nameservices, mount tables; and which way to an HDFS is open.

``hdfs://authority/path`` names a NameNode or a nameservice; ``viewfs://table/path`` is looked up in the mount table
and becomes the ``hdfs://`` URL that it stands for, so that everything below deals with one kind of name.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import socket
import threading
from pathlib import Path
from xml.etree import ElementTree

from cosdask.errors import ConfigError, StorageError

_LOG = logging.getLogger(__name__)
#: Hadoop's own ports of a NameNode
_RPC_PORT, _HTTP_PORT, _HTTPS_PORT = 8020, 9870, 9871
#: seconds to try whether a NameNode takes connections
_CONNECT = 3.0
_VARIABLE = re.compile(r"\$\{([^${}]+)\}")
#: the way to each HDFS, by configuration and authority
_WAYS: dict[tuple[str, str], str] = {}
_LOCK = threading.Lock()


def split_url(url: str) -> tuple[str, str, str]:
    """Scheme, authority and path; a question mark or a hash is part of the path, as HDFS has it.

    Example:
        >>> split_url("hdfs://nn:8020/a?b#c"), split_url("/a")
        (('hdfs', 'nn:8020', '/a?b#c'), ('', '', '/a'))
    """
    scheme, found, rest = url.partition("://")
    if not found:
        return "", "", url
    authority, slash, path = rest.partition("/")
    return scheme, authority, slash + path


def conf_folder() -> str:
    """The folder of the site files; "" where the environment names none."""
    home = os.environ.get("HADOOP_HOME")
    return os.environ.get("HADOOP_CONF_DIR") or (f"{home}/etc/hadoop" if home else "")


def settings(file: str) -> dict[str, str]:
    """A site file's settings with their ``${variables}`` replaced; none where there is no such file.

    Args:
        file: ``core-site.xml`` and the like.

    Raises:
        ConfigError: it is no XML.
    """
    path = Path(conf_folder() or ".") / file
    try:
        return dict(_parsed(str(path), path.stat().st_mtime_ns)) if conf_folder() else {}
    except FileNotFoundError:
        return {}


@functools.lru_cache(maxsize=16)
def _parsed(path: str, _changed: int) -> dict[str, str]:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ConfigError(f"{path}: not a Hadoop configuration: {error}", path=path) from error
    found = {
        (entry.findtext("name") or "").strip(): (entry.findtext("value") or "").strip()
        for entry in root.iter("property")
    }

    def known(match: re.Match[str]) -> str:
        return found.get(match[1], match[0])

    return {name: _VARIABLE.sub(known, value) for name, value in found.items()}


def default_filesystem() -> str:
    """``fs.defaultFS``; "" where none is set."""
    return settings("core-site.xml").get("fs.defaultFS", "").rstrip("/")


def real_url(url: str) -> str:
    """The ``hdfs://`` URL that a name in HDFS stands for.

    ``hdfs:///path`` counts from ``fs.defaultFS``, also where that is a mount table. ``viewfs://`` names come back as
    they are where the site files hold no plain link for them; the client in Rust knows further kinds of mounts.

    Raises:
        StorageError: a mount table that has no place for the name.
    """
    scheme, authority, path = split_url(url)
    if scheme == "hdfs" and not authority:
        base = default_filesystem()
        return real_url(base + path) if base.startswith("viewfs://") else url
    return _mounted(url) if scheme == "viewfs" else url


def _mounted(url: str) -> str:
    """The target of the longest link that holds the path."""
    _, authority, path = split_url(url)
    table = authority or split_url(default_filesystem())[1] or "default"
    head = f"fs.viewfs.mounttable.{table}."
    entries = {name.removeprefix(head): value for name, value in _mount_settings().items() if name.startswith(head)}
    links = {name.removeprefix("link."): target for name, target in entries.items() if name.startswith("link.")}
    path = path or "/"
    for link in sorted(links, key=len, reverse=True):
        if path == link or path.startswith(link.rstrip("/") + "/"):
            return links[link].rstrip("/") + path[len(link.rstrip("/")) :]
    for name in ("linkMergeSlash", "linkFallback"):
        if name in entries:
            return entries[name].rstrip("/") + path
    if links or not entries:
        there = f"it mounts {', '.join(sorted(links))}" if links else "core-site.xml says nothing of it"
        raise StorageError(f"{url}: the mount table {table} has no place for it; {there}", path=url)
    return url


def _mount_settings() -> dict[str, str]:
    """The settings of mount tables: core-site.xml, or a file that it includes by Hadoop's usual name."""
    return {**settings("mountTable.xml"), **settings("viewfs-mount-table.xml"), **settings("core-site.xml")}


def rpc_addresses(authority: str) -> list[str]:
    """``host:port`` of the NameNodes behind an authority: several for a nameservice."""
    found = [address for address in _given("dfs.namenode.rpc-address", authority) if address]
    return found or [authority if ":" in authority else f"{authority}:{_RPC_PORT}"]


def http_addresses(authority: str) -> list[str]:
    """``http://host:port`` of the NameNodes behind an authority, as WebHDFS is asked there."""
    sites = settings("hdfs-site.xml")
    scheme, port = ("https", _HTTPS_PORT) if sites.get("dfs.http.policy") == "HTTPS_ONLY" else ("http", _HTTP_PORT)
    key = f"dfs.namenode.{scheme}-address"
    hosts = [address.rpartition(":")[0] for address in rpc_addresses(authority)]
    given = _given(key, authority)
    if not any(given):
        # without nameservices the files speak of one NameNode: is it this one?
        ours = authority in (sites.get("dfs.namenode.rpc-address"), split_url(default_filesystem())[1])
        given = [sites.get(key, "") if ours else ""] * len(hosts)
    return [f"{scheme}://{_reachable(address, host, port)}" for address, host in zip(given, hosts, strict=False)]


def _given(key: str, nameservice: str) -> list[str]:
    """A setting of each NameNode of a nameservice, "" where it is not set; empty for what is none."""
    sites = settings("hdfs-site.xml")
    names = [name.strip() for name in sites.get(f"dfs.ha.namenodes.{nameservice}", "").split(",") if name.strip()]
    if names:
        return [sites.get(f"{key}.{nameservice}.{name}", "") for name in names]
    alone = sites.get(f"{key}.{nameservice}", "")
    return [alone] if alone else []


def _reachable(address: str, host: str, port: int) -> str:
    """An address to listen on as one to connect to."""
    listens, _, own = address.partition(":")
    return f"{listens if listens not in ('', '0.0.0.0') else host}:{own or port}"


def way_to(authority: str) -> str:
    """How to reach an HDFS from here: ``"rpc"``, or ``"http"`` where a firewall leaves only that.

    Found out once a process: firewalls stay. A NameNode that is down is asked again the next time.

    Raises:
        StorageError: no NameNode takes connections in either way.
    """
    key = conf_folder(), authority
    with _LOCK:
        if key not in _WAYS:
            _WAYS[key] = _open_way(authority)
        return _WAYS[key]


def _open_way(authority: str) -> str:
    rpc, http = rpc_addresses(authority), http_addresses(authority)
    if any(map(_connects, rpc)):
        return "rpc"
    if any(_connects(split_url(url)[1]) for url in http):
        _LOG.warning("hdfs://%s: the RPC port is closed from here (%s); going over HTTP", authority, ", ".join(rpc))
        return "http"
    raise StorageError(
        f"hdfs://{authority}: no NameNode takes connections, neither at {', '.join(rpc)} nor over HTTP at "
        f"{', '.join(http)}. Is it up, and is HADOOP_CONF_DIR ({conf_folder() or 'not set'}) the right one?",
        path=f"hdfs://{authority}",
    )


def _connects(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT).close()
    except (OSError, ValueError):
        return False
    return True
