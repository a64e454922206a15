"""Data sets on a real HDFS: converted there and back, read where they lie, and by Hadoop's own shell."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from google.protobuf import text_format

import cosdask
from cosdask.cluster.jars import hadoop_classpath, java_home
from cosdask.cluster.sandbox import Sandbox
from cosdask.convert import Form, convert, open_input
from cosdask.data import open_source, write_lmdb
from cosdask.errors import StorageError
from cosdask.proto import caffe_pb2
from tests.cluster.needs import needs_hadoop


def _rows(place: str) -> list[dict[str, Any]]:
    rows = open_input(place)
    return [row for batch in rows.read(0, rows.rows) for row in batch.to_pylist()]


@needs_hadoop
def test_there_and_back_over_hdfs(hadoop: Sandbox, tmp_path: Path) -> None:
    """An LMDB becomes SequenceFiles in HDFS, parquet there, and an LMDB there that is read in place: the same rows."""
    images = np.random.default_rng(0).integers(0, 256, (60, 3, 16, 16), dtype=np.uint8)
    write_lmdb(tmp_path / "lmdb", images, range(60))
    first = _rows(str(tmp_path / "lmdb"))
    home = f"{hadoop.namenode}/converted"
    form = Form(compression="block", codec="gzip")
    with cosdask.LocalCluster(n_workers=1, threads_per_worker=2) as cluster, Client(cluster) as client:
        convert(open_input(str(tmp_path / "lmdb")), f"{home}/seq", "sequence", form=form, parts=2, client=client)
    convert(open_input(f"{home}/seq"), f"{home}/table", "parquet", parts=2)
    convert(open_input(f"{home}/table"), f"{home}/lmdb", "lmdb", parts=2)
    convert(open_input(str(tmp_path / "lmdb")), f"{home}/seq", "sequence", parts=2, overwrite=True)
    for name in ("seq", "table", "lmdb"):
        assert _rows(f"{home}/{name}") == first
    layer = text_format.Parse(
        'name: "d" type: "MemoryData" top: "data" top: "label" source_class: "com.yahoo.ml.caffe.SeqImageDataSource" '
        f'memory_data_param {{ source: "{home}/seq" batch_size: 60 channels: 3 height: 16 width: 16 }}',
        caffe_pb2.LayerParameter(),
    )
    batch = next(open_source(layer).batches())
    np.testing.assert_array_equal(batch["data"], images.astype(np.float32))
    shell = [str(java_home() / "bin" / "java"), "-cp", f"{hadoop.folder}/conf:{hadoop_classpath()}"]
    shell += ["org.apache.hadoop.fs.FsShell", "-text", f"{home}/seq/part-0000*"]
    said = subprocess.run(shell, capture_output=True, text=True, timeout=120, check=True).stdout
    # the shell prints keys and values as bytes in hex, with a tab between them
    lines = [line.split("\t") for line in said.splitlines()]
    assert len(lines) == 60
    assert bytes.fromhex(lines[7][0].replace(" ", "")).startswith(b"\xac\xed")
    assert bytes.fromhex(lines[7][1].replace(" ", "")) == first[7]["data"]


@needs_hadoop
def test_a_wrong_path_in_hdfs_says_so(hadoop: Sandbox) -> None:
    """Nothing there: one line with the path."""
    with pytest.raises(StorageError, match=r"lost: no such data set"):
        open_input(f"{hadoop.namenode}/lost")
