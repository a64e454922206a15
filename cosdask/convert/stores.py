"""Writing data sets that are one file or database, and so have one writer: LMDB, LevelDB, idx, CIFAR-10.

A store grows in a folder of its own. What it holds after so many parts is written down after each part; going on from
there writes the same bytes again, if the last part had been written but not written down.
"""

from __future__ import annotations

import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import lmdb
import numpy as np
import pyarrow as pa

from cosdask.convert.raw_files import CIFAR_ROW, CIFAR_SHAPE, IDX_IMAGES, IDX_LABELS
from cosdask.errors import ConfigError, DataError
from cosdask.proto import caffe_pb2

_MAP_START = 64 << 20
#: Most bytes of a key that an LMDB takes.
_KEY_BYTES = 511


class Store(ABC):
    """A data set that grows in a folder.

    Args:
        folder: made if it is not there.
        digits: digits of the rows' numbers in keys.
    """

    #: Names of what the finished store consists of, in the folder.
    files: ClassVar[tuple[str, ...]]
    #: Whether the data set is a folder with these files; else they stand beside each other.
    is_folder: ClassVar[bool] = True

    def __init__(self, folder: str | os.PathLike[str], digits: int = 8) -> None:
        self.folder = Path(folder)
        self.digits = digits
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _open(self) -> None:
        """Open or make the files."""

    @abstractmethod
    def put(self, first: int, rows: pa.RecordBatch) -> None:
        """Write rows from number ``first`` on, in place of any that are there."""

    @abstractmethod
    def close(self) -> None:
        """Bring all to the disk."""

    @abstractmethod
    def finish(self, rows: int) -> int:
        """Bring the store, which has ``rows`` rows, into its last form; returns how many it really has."""


def datum_of(row: dict[str, Any]) -> caffe_pb2.Datum:
    """A row as Caffe's Datum: raw pixels in planes.

    Raises:
        DataError: a label that is no whole number, or pixels that are not of the size that the row says.
    """
    sizes = {name: row[name] for name in ("channels", "height", "width")}
    try:
        datum = caffe_pb2.Datum(**sizes, label=int(row["label"]))
    except ValueError:
        raise DataError(f'row "{row["id"]}": the label {row["label"]!r} is not a whole number of 32 bits') from None
    if row["encoded"]:
        datum.encoded, datum.data = True, row["data"]
        return datum
    shape = (row["height"], row["width"], row["channels"])
    floats = row["data"] is None
    pixels = np.asarray(row["float_data"], np.float32) if floats else np.frombuffer(row["data"], np.uint8)
    if pixels.size != np.prod(shape, dtype=np.int64):
        raise DataError(f'row "{row["id"]}": {pixels.size} values for {shape} (height, width, channels)')
    planes = pixels.reshape(shape).transpose(2, 0, 1)
    if floats:
        datum.float_data.extend(planes.ravel().tolist())
    else:
        datum.data = planes.tobytes()
    return datum


def row_key(number: int, name: str, digits: int = 8) -> bytes:
    """The key of a row: its number, so that keys keep the order, and its id as Caffe's convert_imageset does.

    Example:
        >>> row_key(3, "cat.jpg"), row_key(3, "00000003"), row_key(3, "00000003_cat.jpg")
        (b'00000003_cat.jpg', b'00000003', b'00000003_cat.jpg')
    """
    head = f"{number:0{digits}d}"
    known = not name or name.startswith(f"{head}_") or (name.isascii() and name.isdecimal() and int(name) == number)
    whole = (name if name.startswith(f"{head}_") else head) if known else f"{head}_{name}"
    return whole.encode("utf-8", "backslashreplace")[:_KEY_BYTES]


class LmdbStore(Store):
    """An LMDB of Datums, as Caffe's tools write it."""

    files = ("data.mdb",)

    def _open(self) -> None:
        self.environment = lmdb.open(str(self.folder), map_size=_MAP_START)

    def _records(self, first: int, rows: pa.RecordBatch) -> Iterator[tuple[bytes, bytes]]:
        for number, row in enumerate(rows.to_pylist(), start=first):
            yield row_key(number, row["id"], self.digits), datum_of(row).SerializeToString()

    def put(self, first: int, rows: pa.RecordBatch) -> None:
        """See :meth:`Store.put`; in one transaction, for which the map grows as it needs."""
        records = list(self._records(first, rows))
        while True:
            try:
                with self.environment.begin(write=True) as transaction:
                    for key, value in records:
                        transaction.put(key, value)
                return
            except lmdb.MapFullError:
                self.environment.set_mapsize(self.environment.info()["map_size"] * 2)

    def close(self) -> None:
        """See :meth:`Store.close`."""
        self.environment.sync(True)
        self.environment.close()

    def finish(self, rows: int) -> int:
        """See :meth:`Store.finish`."""
        return int(self.environment.stat()["entries"])


class LevelDbStore(Store):
    """A LevelDB of Datums."""

    files = ()

    def _open(self) -> None:
        try:
            import plyvel
        except ImportError as error:
            raise ConfigError("writing a LevelDB needs plyvel; install with: pip install 'cosdask[leveldb]'") from error
        self.database = plyvel.DB(str(self.folder), create_if_missing=True)

    def put(self, first: int, rows: pa.RecordBatch) -> None:
        """See :meth:`Store.put`."""
        with self.database.write_batch(sync=True) as batch:
            for number, row in enumerate(rows.to_pylist(), start=first):
                batch.put(row_key(number, row["id"], self.digits), datum_of(row).SerializeToString())

    def close(self) -> None:
        """See :meth:`Store.close`."""
        self.database.close()

    def finish(self, rows: int) -> int:
        """See :meth:`Store.finish`."""
        with self.database.iterator(include_value=False) as keys:
            return sum(1 for _ in keys)


class _FixedStore(Store):
    """Files whose rows all have one size."""

    is_folder = False

    def _open(self) -> None:
        self.opened = [self._file(name) for name in self.files]

    def _file(self, name: str) -> Any:
        path = self.folder / name
        path.touch()
        return path.open("r+b")

    def close(self) -> None:
        """See :meth:`Store.close`."""
        for file in self.opened:
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def _labels(self, rows: pa.RecordBatch) -> bytes:
        try:
            return bytes(int(label) for label in rows.column("label").to_pylist())
        except ValueError as error:
            raise DataError(f"labels of this format are whole numbers from 0 to 255: {error}") from error

    def _shape(self, rows: pa.RecordBatch) -> tuple[int, int, int]:
        """The size of all rows: channels, height, width."""
        shapes = {tuple(rows.column(name)[i].as_py() for name in ("channels", "height", "width")) for i in (0, -1)}
        channels, height, width = shapes.pop()
        return channels, height, width


class IdxStore(_FixedStore):
    """MNIST's two files."""

    files = ("images-idx3-ubyte", "labels-idx1-ubyte")

    def put(self, first: int, rows: pa.RecordBatch) -> None:
        """See :meth:`Store.put`."""
        images, labels = self.opened
        channels, height, width = self._shape(rows)
        if channels != 1:
            raise DataError(f"idx files hold gray images, these have {channels} channels; see --gray")
        images.seek(0)
        images.write(struct.pack(">4sIII", IDX_IMAGES, 0, height, width))
        images.seek(16 + first * height * width)
        images.write(b"".join(rows.column("data").to_pylist()))
        labels.seek(8 + first)
        labels.write(self._labels(rows))

    def finish(self, rows: int) -> int:
        """See :meth:`Store.finish`."""
        images, labels = self.opened
        images.seek(8)
        height, width = struct.unpack(">II", images.read(8)) if rows else (0, 0)
        images.seek(0)
        images.write(struct.pack(">4sIII", IDX_IMAGES, rows, height, width))
        labels.seek(0)
        labels.write(struct.pack(">4sI", IDX_LABELS, rows))
        images.truncate(16 + rows * height * width)
        labels.truncate(8 + rows)
        return labels.seek(0, os.SEEK_END) - 8


class CifarStore(_FixedStore):
    """One binary batch of CIFAR-10; the planes keep their order."""

    files = ("batch.bin",)

    def put(self, first: int, rows: pa.RecordBatch) -> None:
        """See :meth:`Store.put`."""
        shape = self._shape(rows)
        if shape != CIFAR_SHAPE:
            raise DataError(f"CIFAR-10's images are {CIFAR_SHAPE} (channels, height, width), these {shape}")
        pixels = np.stack([np.frombuffer(data, np.uint8) for data in rows.column("data").to_pylist()])
        planes = pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2).reshape(len(pixels), -1)
        labels = np.frombuffer(self._labels(rows), np.uint8)
        self.opened[0].seek(first * CIFAR_ROW)
        self.opened[0].write(np.concatenate([labels[:, None], planes], axis=1).tobytes())

    def finish(self, rows: int) -> int:
        """See :meth:`Store.finish`."""
        self.opened[0].truncate(rows * CIFAR_ROW)
        return self.opened[0].seek(0, os.SEEK_END) // CIFAR_ROW


#: Formats that have one writer.
STORE_KINDS: dict[str, type[Store]] = {
    "lmdb": LmdbStore,
    "leveldb": LevelDbStore,
    "idx": IdxStore,
    "cifar10": CifarStore,
}
#: Formats that hold pixels of one size only.
PIXEL_KINDS = ("hdf5", "idx", "cifar10")


def names_of(kind: str, output: str) -> dict[str, str]:
    """Where the files of a finished store go, by their names while it grows.

    Example:
        >>> names_of("idx", "out/train")
        {'images-idx3-ubyte': 'out/train-images-idx3-ubyte', 'labels-idx1-ubyte': 'out/train-labels-idx1-ubyte'}
        >>> names_of("cifar10", "out/batch_1.bin")
        {'batch.bin': 'out/batch_1.bin'}
    """
    store = STORE_KINDS[kind]
    if kind == "idx":
        return {name: f"{output}-{name}" for name in store.files}
    return {name: output for name in store.files}
