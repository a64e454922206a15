"""Opening data sets for conversion: which format a path is, and its rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from cosdask.convert.listed import ListInput
from cosdask.convert.pictures import ENCODINGS
from cosdask.convert.raw_files import CifarInput, IdxInput, is_cifar
from cosdask.convert.rows import CHUNK, Input, SourceInput, row_schema
from cosdask.data import open_source
from cosdask.data.dataframe import DataFrameImages
from cosdask.data.hdf5 import reading_hdf5
from cosdask.data.parts import part_files
from cosdask.errors import ConfigError, DataError, StorageError, did_you_mean
from cosdask.proto import caffe_pb2
from cosdask.storage import exists, filesystem, join, local_path, missing, parent, read_text, stamp

#: Formats that can be read.
INPUT_KINDS = ("list", "lmdb", "leveldb", "sequence", "parquet", "json", "orc", "csv", "hdf5", "idx", "cifar10")
_TABLES = ("parquet", "json", "orc", "csv")
_MARKS = {b"SEQ": "sequence", b"PAR1": "parquet", b"ORC": "orc", b"\x89HDF": "hdf5", b"\x00\x00\x08\x03": "idx"}
_ENDINGS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".txt": "list", ".lst": "list"}
_IMAGES = tuple(mark for marks in ENCODINGS.values() for mark in marks)
_LIST_LIMIT = 64 << 20
#: Most bytes of an image in an HDF5 file, and of those read at a time.
_ROW_BYTES = 1 << 28
_CHUNK_BYTES = 64 << 20


def absolute(path: str) -> str:
    """A path that means the same on every worker of this machine; URLs stay."""
    here = local_path(path)
    return path if here is None else str(here.absolute())


def open_input(path: str, kind: str = "", *, labels: str = "", root: str = "", **settings: Any) -> Input:
    """The rows of a data set.

    Args:
        path: local path or URL: a database's folder, a file, a folder of parts, or a list of image files.
        kind: one of :data:`INPUT_KINDS`; default: what the data look like.
        labels: of idx files: the file of labels.
        root: of lists: the folder of the images.
        **settings: of lists, see :class:`~cosdask.convert.ListInput`.

    Raises:
        ConfigError: an unknown format, or one that cannot be told.
        StorageError: nothing there.
        DataError: damaged.
    """
    path = absolute(path)
    if not kind:
        kind = detect(path)
    if kind not in INPUT_KINDS:
        raise ConfigError(
            f'no format "{kind}".{did_you_mean(kind, INPUT_KINDS)} There are {", ".join(INPUT_KINDS)}', path=path
        )
    if kind == "list":
        return ListInput(path, absolute(root) + "/" if root.endswith("/") else root and absolute(root), **settings)
    if kind == "idx":
        return IdxInput(path, labels and absolute(labels))
    if kind == "cifar10":
        return CifarInput(path)
    if kind == "hdf5":
        return Hdf5Input(path)
    return SourceInput(open_source(layer_for(path, kind)))


def layer_for(path: str, kind: str) -> caffe_pb2.LayerParameter:
    """A data layer that reads a data set as it lies there."""
    layer = caffe_pb2.LayerParameter(name=os.path.basename(path.rstrip("/")) or path, top=["data", "label"])
    if kind in ("lmdb", "leveldb"):
        layer.type = "Data"
        backends = caffe_pb2.DataParameter
        layer.data_param.source, layer.data_param.batch_size = path, 1
        layer.data_param.backend = backends.LMDB if kind == "lmdb" else backends.LEVELDB
        return layer
    layer.type = "MemoryData"
    param = layer.memory_data_param
    param.source, param.batch_size, param.channels, param.height, param.width = path, 1, 1, 1, 1
    if kind == "sequence":
        layer.source_class = "SeqImageDataSource"
    else:
        layer.source_class = "ImageDataFrame"
        param.dataframe_format = kind
        _fit_table(layer)
    return layer


def _fit_table(layer: caffe_pb2.LayerParameter) -> None:
    """Say what a table does not say by itself: which column is the id, and whether data are encoded images."""
    source = open_source(layer)
    assert isinstance(source, DataFrameImages)
    names = list(source.table.schema.names)
    if "SampleID" in names and "id" not in names:
        # CaffeOnSpark's Binary2DataFrame
        wanted = ["label", "data", "channels", "height", "width", "encoded"]
        layer.memory_data_param.dataframe_column_select.append("SampleID AS id")
        layer.memory_data_param.dataframe_column_select.extend(name for name in wanted if name in names)
    if "encoded" not in names and source.rows:
        cell = next(source.read(0, 1)).column("data")[0].as_py()
        layer.memory_data_param.image_encoded = cell is not None and cell.startswith(_IMAGES)


def detect(path: str) -> str:
    """The format of a data set, by the files' names and first bytes.

    Raises:
        StorageError: nothing there.
        ConfigError: no format that is known.
    """
    if not exists(path) and not any(sign in path for sign in "*?["):
        raise missing(path, "data set")
    if exists(join(path, "data.mdb")) or path.endswith(".mdb"):
        return "lmdb"
    if exists(join(path, "CURRENT")):
        return "leveldb"
    if exists(join(path, "list.txt")):
        return "hdf5"
    names = part_files(path, "data")
    endings = [_ENDINGS[ending] for ending in _ENDINGS if names[0].removesuffix(".gz").endswith(ending)]
    head = _head(names[0])
    found = next((kind for mark, kind in _MARKS.items() if head.startswith(mark)), "")
    if not found and head.startswith(b"\x1f\x8b") and "idx3" in names[0]:
        found = "idx"
    if not found and any(is_cifar(name) for name in names):
        found = "cifar10"
    if not found and endings:
        found = "hdf5" if endings[0] == "list" and _lists_hdf5(names[0]) else endings[0]
    if not found:
        raise ConfigError(
            f"{path}: no format that is known; say which it is with --from, one of {', '.join(INPUT_KINDS)}", path=path
        )
    return found


def _head(name: str) -> bytes:
    fs, path = filesystem(name)
    try:
        with fs.open(path, "rb") as file:
            return bytes(file.read(8))
    except OSError as error:
        raise StorageError(f"{name}: cannot be read: {error}", path=name) from error


def _lists_hdf5(name: str) -> bool:
    fs, path = filesystem(name)
    with fs.open(path, "rb") as file:
        first = file.readline(4096).strip()
    return bool(first.endswith((b".h5", b".hdf5")))


class Hdf5Input(Input):
    """HDF5 files as Caffe's HDF5Data reads them: data (N, C, H, W), label (N,) or (N, 1, ...), and ids if there.

    Args:
        place: an HDF5 file, a list of such, or a folder with ``list.txt`` or with such files.
    """

    def __init__(self, place: str) -> None:
        self.place = place

    @cached_property
    def files(self) -> list[tuple[str, int]]:
        """The files and their numbers of rows."""
        names = self._names()
        found = []
        for name in names:
            with self._open(name) as file:
                found.append((name, int(file["data"].shape[0])))
        return found

    def _names(self) -> list[str]:
        listed = join(self.place, "list.txt") if exists(join(self.place, "list.txt")) else self.place
        fs, path = filesystem(listed)
        if fs.isdir(path):
            return part_files(listed, "HDF5")
        if _head(listed).startswith(b"\x89HDF"):
            return [listed]
        lines = [line.strip() for line in read_text(listed, _LIST_LIMIT).splitlines() if line.strip()]
        beside = parent(listed)
        return [line if exists(line) else join(beside, line) for line in lines]

    @contextmanager
    def _open(self, name: str) -> Iterator[h5py.File]:
        with reading_hdf5(name) as file:
            lacking = [key for key in ("data", "label") if not isinstance(file.get(key), h5py.Dataset)]
            if lacking:
                there = ", ".join(file)
                raise DataError(f"{name}: no data set {' and '.join(lacking)}; there are {there}", path=name)
            data, label = file["data"], file["label"]
            if data.ndim != 4 or data.dtype.kind not in "fiu" or label.shape[:1] != data.shape[:1]:
                raise DataError(
                    f"{name}: data is {data.dtype} {data.shape} and label {label.shape}; numbers (N, channels, "
                    "height, width) with N labels can be converted",
                    path=name,
                )
            if data.dtype.itemsize * data.shape[1] * data.shape[2] * data.shape[3] > _ROW_BYTES:
                raise DataError(f"{name}: rows of {data.shape[1:]} {data.dtype} are too large", path=name)
            yield file

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(rows for _, rows in self.files)

    @cached_property
    def floats(self) -> bool:
        """Whether rows hold floats: all but bytes become such."""
        with self._open(self.files[0][0]) as file:
            return bool(file["data"].dtype != np.uint8)

    def state(self) -> Any:
        """See :meth:`Input.state`."""
        return [[name, stamp(name).size, stamp(name).changed] for name, _ in self.files]

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """See :meth:`Input.read`."""
        before = 0
        for name, rows in self.files:
            first, last = max(start, before), min(stop, before + rows)
            if first < last:
                with self._open(name) as file:
                    row = file["data"].dtype.itemsize * int(np.prod(file["data"].shape[1:], dtype=np.int64))
                    chunk = max(1, min(CHUNK, _CHUNK_BYTES // max(1, row)))
                    for at in range(first, last, chunk):
                        yield self._batch(file, name, at, at - before, min(chunk, last - at))
            before += rows

    def _batch(self, file: h5py.File, name: str, first: int, skip: int, count: int) -> pa.RecordBatch:
        pixels = np.asarray(file["data"][skip : skip + count])
        if pixels.shape[1] * pixels.shape[2] * pixels.shape[3] == 0 or (pixels.dtype != np.uint8) != self.floats:
            raise DataError(f"{name}: data is {pixels.dtype} {pixels.shape}, unlike {self.files[0][0]}", path=name)
        labels = np.asarray(file["label"][skip : skip + count]).reshape(count, -1)
        if labels.shape[1] != 1:
            raise DataError(f"{name}: {labels.shape[1]} labels a row; one can be converted", path=name)
        ids = [f"{row:08d}" for row in range(first, first + count)]
        if isinstance(file.get("id"), h5py.Dataset):
            ids = [_name(cell) for cell in file["id"][skip : skip + count]]
        rows = pixels.transpose(0, 2, 3, 1)
        data = [None if self.floats else row.tobytes() for row in rows]
        _, channels, height, width = pixels.shape
        columns: list[Any] = [ids, [_text(label) for label in labels[:, 0].tolist()]]
        columns += [[channels] * count, [height] * count, [width] * count, [False] * count, data]
        if self.floats:
            columns.append(list(rows.reshape(count, -1).astype(np.float32)))
        schema = row_schema(self.floats)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _name(cell: Any) -> str:
    """A row's id: h5py gives texts as bytes."""
    return cell.decode("utf-8", "backslashreplace") if isinstance(cell, bytes) else str(cell)


def _text(label: float) -> str:
    return str(int(label)) if float(label).is_integer() else repr(label)


__all__ = ["INPUT_KINDS", "Hdf5Input", "absolute", "detect", "layer_for", "open_input"]
