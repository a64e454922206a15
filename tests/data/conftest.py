"""Small data sets and layers for the tests of sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from cosdask.data import write_lmdb, write_parquet
from cosdask.proto import caffe_pb2

MakeLayer = Callable[..., caffe_pb2.LayerParameter]


def _layer(kind: str, source: object, batch: int, transform: str = "", more: str = "") -> caffe_pb2.LayerParameter:
    blocks = {
        "lmdb": f'type: "Data" data_param {{ source: "{source}" backend: LMDB batch_size: {batch} }}',
        "memory_lmdb": f'type: "MemoryData" source_class: "LMDB" memory_data_param {{ source: "{source}" '
        f"batch_size: {batch} {more} }}",
        "parquet": f'type: "MemoryData" source_class: "ImageDataFrame" memory_data_param {{ source: "{source}" '
        f"batch_size: {batch} {more} }}",
        "hdf5": f'type: "HDF5Data" hdf5_data_param {{ source: "{source}" batch_size: {batch} }}',
    }
    text = f'name: "data" top: "data" top: "label" {blocks[kind]} transform_param {{ {transform} }}'
    return text_format.Parse(text, caffe_pb2.LayerParameter())


@pytest.fixture(scope="session")
def make_layer() -> MakeLayer:
    """A data layer: kind, source, batch size, the inside of transform_param, more memory_data_param fields."""
    return _layer


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """23 images uint8 (N, 3, 9, 8), every pixel different from its neighbors, and their labels."""
    images = np.random.default_rng(3).integers(0, 256, (23, 3, 9, 8), dtype=np.uint8)
    return images, np.arange(23) % 10


@pytest.fixture(scope="session")
def lmdb_path(digits: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as an LMDB."""
    path = tmp_path_factory.mktemp("rows") / "lmdb"
    write_lmdb(path, *digits)
    return path


@pytest.fixture(scope="session")
def parquet_path(digits: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as parquet, in row groups of 5."""
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    write_parquet(path, *digits, rows_per_group=5)
    return path
