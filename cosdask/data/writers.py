"""Small data sets from arrays: LMDBs of Datums, and parquet with CaffeOnSpark's columns."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa

from cosdask.data.images import image_schema
from cosdask.errors import DataError, StorageError
from cosdask.proto import caffe_pb2
from cosdask.storage import atomic_output

Images = np.ndarray | Sequence[bytes]
_MAP_START = 16 << 20
_TRANSACTION_ROWS = 1000


def write_lmdb(path: str | os.PathLike[str], images: Images, labels: Iterable[int]) -> int:
    """Write an LMDB of Datums with the keys ``00000000``, ``00000001`` and on, as Caffe's tools do.

    Args:
        path: a folder that is not there yet, or empty.
        images: uint8 (N, C, H, W) or gray (N, H, W), BGR; float32 of the same shapes (stored as ``float_data``); or a
            sequence of encoded files (bytes).
        labels: N whole numbers.

    Returns:
        The number of rows.

    Raises:
        StorageError: the folder holds something already.
        DataError: another number of labels than images, or arrays of other types.
    """
    folder = Path(path)
    if folder.exists() and any(folder.iterdir()):
        raise StorageError(f"{folder}: already there and not empty", path=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    environment = lmdb.open(str(folder), map_size=_MAP_START)
    count = 0
    try:
        rows: list[tuple[bytes, bytes]] = []
        for datum in _datums(images, list(labels)):
            rows.append((b"%08d" % count, datum.SerializeToString()))
            count += 1
            if len(rows) == _TRANSACTION_ROWS:
                _put(environment, rows)
                rows.clear()
        _put(environment, rows)
        environment.sync(True)
    finally:
        environment.close()
    return count


def _put(environment: lmdb.Environment, rows: list[tuple[bytes, bytes]]) -> None:
    """One transaction; the map grows until the rows fit."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in rows:
                    transaction.put(key, value)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(environment.info()["map_size"] * 2)


def _planes(images: np.ndarray) -> np.ndarray:
    if images.ndim not in (3, 4) or images.dtype not in (np.uint8, np.float32):
        raise DataError(f"images of shape {images.shape}, {images.dtype}: uint8 or float32 (N, C, H, W) are needed")
    return images[:, None] if images.ndim == 3 else images


def _datums(images: Images, labels: list[int]) -> Iterator[caffe_pb2.Datum]:
    if len(images) != len(labels):
        raise DataError(f"{len(images)} images and {len(labels)} labels")
    if not isinstance(images, np.ndarray):
        for data, label in zip(images, labels, strict=True):
            yield caffe_pb2.Datum(data=data, label=int(label), encoded=True)
        return
    for image, label in zip(_planes(images), labels, strict=True):
        channels, height, width = image.shape
        datum = caffe_pb2.Datum(channels=channels, height=height, width=width, label=int(label))
        if image.dtype == np.uint8:
            datum.data = image.tobytes()
        else:
            datum.float_data.extend(image.ravel().tolist())
        yield datum


def write_parquet(
    path: str | os.PathLike[str], images: Images, labels: Iterable[int], rows_per_group: int = 1000
) -> int:
    """Write parquet with the columns of CaffeOnSpark's LMDB2DataFrame; raw pixels interleaved.

    Args:
        path: the file, local or a URL; replaced if there.
        images: uint8 (N, C, H, W) or gray (N, H, W), BGR; or a sequence of encoded files.
        labels: N whole numbers.
        rows_per_group: rows of a row group, the unit that is read.

    Returns:
        The number of rows.

    Raises:
        DataError: another number of labels than images, or arrays of other types.
    """
    schema = image_schema("HWC", pa.string()).remove_metadata()
    count = 0
    import pyarrow.parquet as pq  # see cosdask.data.formats

    with atomic_output(path) as file, pq.ParquetWriter(file, schema) as writer:
        rows: list[dict[str, object]] = []
        for datum in _datums(images, list(labels)):
            if not datum.encoded and not datum.data:
                raise DataError("float images have no place in these columns; give uint8")
            rows.append(_row(count, datum))
            count += 1
            if len(rows) == rows_per_group:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return count


def _row(number: int, datum: caffe_pb2.Datum) -> dict[str, object]:
    data = datum.data
    if not datum.encoded:
        planes = np.frombuffer(data, np.uint8).reshape(datum.channels, datum.height, datum.width)
        data = planes.transpose(1, 2, 0).tobytes()
    return {
        "id": f"{number:08d}",
        "label": str(datum.label),
        "channels": datum.channels,
        "height": datum.height,
        "width": datum.width,
        "encoded": datum.encoded,
        "data": data,
    }
