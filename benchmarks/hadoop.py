"""A Hadoop for the benchmarks that need one."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from cosdask.cluster.sandbox import Sandbox
from cosdask.storage import filesystem

#: names the folder of a running sandbox; without it each benchmark starts one of its own
RUNNING = "COSDASK_BENCH_SANDBOX"
#: seconds between two looks of Hadoop's at its own counters
_REFRESH = 11.0


@contextlib.contextmanager
def hadoop(name: str) -> Iterator[tuple[Sandbox, str]]:
    """A sandbox, and this process's environment pointing at it.

    Args:
        name: of the benchmark.

    Yields:
        The sandbox, and the URL of a folder in its HDFS that is deleted afterwards.
    """
    running = os.environ.get(RUNNING)
    with tempfile.TemporaryDirectory(prefix="cosdask-bench-") as folder:
        sandbox = Sandbox.attach(running) if running else Sandbox.start(Path(folder) / "sandbox")
        # skein and dask-yarn write nothing to the user's home
        os.environ.update(sandbox.environment(), SKEIN_CONFIG=f"{folder}/skein", DASK_CONFIG=f"{folder}/dask")
        url = f"{sandbox.namenode}/benchmarks/{name}"
        try:
            yield sandbox, url
        finally:
            if running:
                files, place = filesystem(url)
                files.rm(place, recursive=True)
            else:
                sandbox.stop()


def bytes_sent(sandbox: Sandbox) -> int:
    """Bytes that the DataNodes say they have sent to readers so far."""
    time.sleep(_REFRESH)
    total = 0
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for address in _datanodes(sandbox, opener):
        query = f"http://{address}/jmx?qry=Hadoop:service=DataNode,name=DataNodeActivity-*"
        with opener.open(query, timeout=5) as answer:
            total += sum(bean["BytesRead"] for bean in json.load(answer)["beans"])
    return total


def _datanodes(sandbox: Sandbox, opener: urllib.request.OpenerDirector) -> list[str]:
    query = f"{sandbox.state['namenode_http']}/jmx?qry=Hadoop:service=NameNode,name=NameNodeInfo"
    with opener.open(query, timeout=5) as answer:
        nodes = json.loads(json.load(answer)["beans"][0]["LiveNodes"])
    return [str(node["infoAddr"]) for node in nodes.values()]
