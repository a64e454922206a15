"""An LMDB in a real HDFS is read where it lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from cosdask.cluster.sandbox import Sandbox
from cosdask.data import Feed, RowPlan, Source, open_source, write_lmdb
from cosdask.errors import DataError, StorageError
from cosdask.proto import caffe_pb2
from cosdask.storage import atomic_write, filesystem
from tests.cluster.needs import needs_hadoop

pytestmark = needs_hadoop

ROWS = 3000


def layer(source: str) -> caffe_pb2.LayerParameter:
    text = f'name: "d" type: "Data" top: "data" top: "label" data_param {{ source: "{source}" backend: LMDB '
    return text_format.Parse(text + "batch_size: 500 }", caffe_pb2.LayerParameter())


def images_of(rows: int) -> np.ndarray:
    """Small random images."""
    return np.random.default_rng(0).integers(0, 256, (rows, 40, 40), dtype=np.uint8)


def test_an_lmdb_in_hdfs_is_read_in_place(hadoop: Sandbox, tmp_path: Path) -> None:
    """Every row once over the ranks; the count is kept until the file changes; what is wrong names the URL."""
    images = images_of(ROWS)
    write_lmdb(tmp_path / "rows", images, range(ROWS))
    url = f"{hadoop.namenode}/tests/lmdb/rows"
    data = (tmp_path / "rows" / "data.mdb").read_bytes()
    atomic_write(f"{url}/data.mdb", data)
    try:
        spec = open_source(layer(url)).spec()
        rows = []
        for rank in range(2):
            with Feed(Source.from_spec(spec), RowPlan(ROWS, 2), rank, batch_size=500) as feed:
                rows += [next(feed) for _ in range(3)]
        np.testing.assert_array_equal(np.concatenate([raw["label"] for raw in rows]), np.arange(ROWS))
        np.testing.assert_array_equal(np.concatenate([raw["data"] for raw in rows])[:, 0], images)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cosdask.data.lmdb_tree.LmdbTree.count", lambda *_, **__: pytest.fail("counted again"))
            assert open_source(layer(f"{url}/data.mdb")).index().rows == ROWS
        atomic_write(f"{url}/data.mdb", data[: len(data) // 2])
        with pytest.raises(DataError, match=rf"{url}/data\.mdb: .*the copy is cut short"):
            open_source(layer(url)).index()
        with pytest.raises(StorageError, match=r"no such LMDB.*rows"):
            open_source(layer(f"{hadoop.namenode}/tests/lmdb/row")).index()
    finally:
        fs, path = filesystem(url)
        fs.rm(path, recursive=True)
