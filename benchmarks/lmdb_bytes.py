"""What workers read of a large LMDB that lies elsewhere: ``python -m benchmarks.lmdb_bytes``.

Bytes are counted, not seconds, so other load on the machine does not matter. Each worker is a process of a local Dask
cluster. First all of them count the rows, as at the start of a training; then each feeds itself one epoch of its rank,
in storage order, and one shuffled.
The LMDB is a local file under a scheme of its own (:mod:`benchmarks.counted`), which cosdask takes for remote; with
``--hdfs`` it lies in a real HDFS, and what its DataNodes say they sent is compared with what the workers asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from distributed import Client
from google.protobuf import text_format

import cosdask
from benchmarks.counted import CountedFileSystem, register, register_hdfs
from benchmarks.hadoop import bytes_sent, hadoop
from benchmarks.run import machine_facts
from cosdask.data import RowPlan, Source, open_source
from cosdask.data.pieces import Piece, cut
from cosdask.data.shuffle import Shuffle
from cosdask.parallel.counting import counted
from cosdask.proto import caffe_pb2
from cosdask.storage import atomic_output

_RESULTS = Path(__file__).resolve().parent / "results"
_LAYER = (
    'name: "data" type: "Data" top: "data" top: "label" data_param {{ source: "{}" backend: LMDB batch_size: 256 }}'
)
_TRANSACTION = 10_000
_STEPS = ("index", "epoch", "shuffled")


def generate(folder: Path, size: int, pixels: int) -> int:
    """Write an LMDB of about ``size`` bytes, of gray images of ``pixels`` x ``pixels``; returns the number of rows."""
    random = np.random.default_rng(0).bytes(1 << 20)
    length = pixels * pixels
    # Datums of 2,000 bytes and more go to pages of their own.
    page = 4096
    in_leaf = length + 60 < page // 2
    rows = size // (page / (page // (length + 32)) if in_leaf else -(-(length + 40) // page) * page)
    with lmdb.open(str(folder), map_size=2 * size + (64 << 20)) as environment:
        for first in range(0, int(rows), _TRANSACTION):
            with environment.begin(write=True) as transaction:
                for row in range(first, min(int(rows), first + _TRANSACTION)):
                    start = row * 7919 % (len(random) - length)
                    datum = caffe_pb2.Datum(channels=1, height=pixels, width=pixels, label=row)
                    datum.data = random[start : start + length]
                    transaction.put(b"%09d" % row, datum.SerializeToString(), append=True)
    return int(rows)


def begin() -> None:
    """On a worker: count bytes from zero."""
    register()
    if os.environ.get("HADOOP_CONF_DIR"):
        register_hdfs()
    CountedFileSystem.reset()


def so_far() -> tuple[int, int]:
    """On a worker: bytes and requests since :func:`begin`."""
    return CountedFileSystem.bytes_read, CountedFileSystem.requests


def count(url: str) -> dict[str, Any]:
    """On a worker: the source's specification, its rows counted by all workers."""
    layer = text_format.Parse(_LAYER.format(url), caffe_pb2.LayerParameter())
    return counted(open_source(layer)).spec()


def feed(spec: dict[str, Any], rank: int, ranks: int, shuffled: bool) -> int:
    """On a worker: one epoch of a rank, read and decoded as for a step; returns the number of rows."""
    source = Source.from_spec(spec)
    shuffle = Shuffle.of(source, seed=1) if shuffled else None
    segment = RowPlan(source.rows, ranks, shuffle).range(rank, 0)
    rows = 0
    for pieces in cut(source, [segment], source.batch_size, 1, shuffle):
        rows += sum(len(source.decode(piece.rows, piece.draw)["label"]) for piece in pieces if isinstance(piece, Piece))
    return rows


def measure(url: str, size: int, rows: int, workers: int, sent: Callable[[], int]) -> dict[str, Any]:
    """Count and feed one epoch; shares of the file's bytes that each worker read, and its requests.

    Args:
        url: of the LMDB.
        size: its bytes.
        rows: how many it has.
        workers: how many share them.
        sent: bytes that the storage has sent so far, by its own count; what it sent for each byte asked for is noted.
    """
    share = size / workers
    found: dict[str, Any] = {"rows": rows, "bytes": int(share * workers)}
    with cosdask.LocalCluster(n_workers=workers, threads_per_worker=1) as cluster, Client(cluster) as client:
        client.wait_for_workers(workers, timeout=120)
        client.run(begin)
        before = sent()
        spec = client.submit(count, url, pure=False).result(timeout=3600)
        addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])
        _note(found, "index", client, addresses, share)
        for name in _STEPS[1:]:
            futures = [
                client.submit(feed, spec, rank, workers, name == "shuffled", workers=[address], pure=False)
                for rank, address in enumerate(addresses)
            ]
            fed = sum(future.result(timeout=3600) for future in futures)
            if fed != rows:
                raise RuntimeError(f"{rows} rows were written, {fed} were fed")
            _note(found, name, client, addresses, share)
    asked = sum(sum(found[step]) for step in _STEPS) * share
    found["sent"] = (sent() - before) / asked
    return found


def _note(found: dict[str, Any], name: str, client: Client, addresses: list[str], share: float) -> None:
    """Enter what each worker has read, and count from zero again."""
    read = client.run(so_far)
    found[name] = [read[address][0] / share for address in addresses]
    found[f"{name}_requests"] = [read[address][1] for address in addresses]
    client.run(begin)


def table_row(name: str, found: dict[str, Any]) -> str:
    """The row of the Markdown table: the worker that read most counts."""
    both = max(index + epoch for index, epoch in zip(found["index"], found["epoch"], strict=True))
    shares = " | ".join(f"{max(found[step]):.3f}" for step in _STEPS)
    requests = ", ".join(str(max(found[f"{step}_requests"])) for step in _STEPS)
    sent = f"{found['sent']:.3f}" if found["sent"] else "-"
    size = f"{found['bytes'] / 1e9:.2f} GB"
    return f"| {name}, {found['rows']:,} rows, {size} | {shares} | {both:.3f} | {requests} | {sent} |"


def one(size: int, pixels: int, workers: int, hdfs: bool) -> dict[str, Any]:
    """Measure an LMDB of images of ``pixels`` x ``pixels``."""
    # A cache folder of its own, so that the rows are really counted.
    with tempfile.TemporaryDirectory(prefix="cosdask-bench-") as folder, contextlib.ExitStack() as stack:
        os.environ["COSDASK_CACHE_DIR"] = os.path.join(folder, "cache")
        rows = generate(Path(folder) / "rows", size, pixels)
        file = Path(folder) / "rows" / "data.mdb"
        length = file.stat().st_size
        if not hdfs:
            return measure(f"counted://{file.parent}", length, rows, workers, lambda: 0)
        sandbox, url = stack.enter_context(hadoop("lmdb"))
        with atomic_output(f"{url}/data.mdb") as copy, file.open("rb") as written:
            shutil.copyfileobj(written, copy, 8 << 20)
        file.unlink()
        return measure(url, length, rows, workers, lambda: bytes_sent(sandbox))


def main() -> None:
    """Measure rows of two sizes, print the table and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lmdb_bytes", description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_000_000, help="bytes of each LMDB (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=4, help="worker processes (default: %(default)s)")
    parser.add_argument("--hdfs", action="store_true", help="in a real HDFS: a sandbox's (Java 17 and Maven)")
    parser.add_argument("--output", type=Path, default=_RESULTS, help="folder of the results (default: %(default)s)")
    chosen = parser.parse_args()
    now = datetime.datetime.now(datetime.UTC)
    record: dict[str, Any] = {"date": now.isoformat(timespec="seconds"), "machine": machine_facts(), "lmdb_bytes": {}}
    print("| LMDB | index | epoch | shuffled epoch | index and epoch | requests | sent by the DataNodes / asked for |")
    print("|---|---|---|---|---|---|---|")
    for name, pixels in (("28x28", 28), ("64x64", 64), ("256x256", 256)):
        found = one(chosen.size, pixels, chosen.workers, chosen.hdfs)
        record["lmdb_bytes"][name] = found
        print(table_row(name, found), flush=True)
    chosen.output.mkdir(parents=True, exist_ok=True)
    path = chosen.output / f"{now:%Y-%m-%d-%H%M%S}-lmdb-bytes.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten: {os.path.relpath(path)}", flush=True)


if __name__ == "__main__":
    main()
