"""Files of rows of one size: MNIST's idx and CIFAR-10's binary batches.

Sources: the "THE IDX FILE FORMAT" page of MNIST's authors; the "binary version" section of CIFAR-10's page.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any

import numpy as np
import pyarrow as pa

from cosdask.convert.rows import CHUNK, Input, row_schema
from cosdask.data.parts import part_files
from cosdask.errors import ConfigError, DataError
from cosdask.storage import exists, filesystem, missing, stamp

IDX_IMAGES, IDX_LABELS = b"\x00\x00\x08\x03", b"\x00\x00\x08\x01"
CIFAR_SHAPE = (3, 32, 32)
CIFAR_ROW = 1 + 3 * 32 * 32
#: Most pixels of an image that an idx file may claim.
_PIXELS = 1 << 27
_SKIP = 1 << 20
_CHUNK_BYTES = 64 << 20


@contextmanager
def _open(name: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """A file, unpacked where it is packed by gzip."""
    fs, path = filesystem(name)
    try:
        with fs.open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if packed:
                with gzip.open(raw) as file:
                    yield file
            else:
                yield raw
    except FileNotFoundError as error:
        raise missing(name) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: cannot be read: {error}", path=name) from error


def _take(file: IO[bytes] | gzip.GzipFile, name: str, count: int) -> bytes:
    parts = []
    while count:
        data = file.read(min(count, _SKIP))
        if not data:
            raise DataError(f"{name}: the file ends {count} bytes too early; the copy may be cut short", path=name)
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def _batch(first: int, digits: int, labels: Any, shape: tuple[int, int, int], images: np.ndarray) -> pa.RecordBatch:
    """Rows from images uint8 (n, height, width, channels)."""
    count, (channels, height, width) = len(images), shape
    columns: list[Any] = [
        [f"{row:0{digits}d}" for row in range(first, first + count)],
        [str(label) for label in labels],
        [channels] * count,
        [height] * count,
        [width] * count,
        [False] * count,
        [image.tobytes() for image in images],
    ]
    schema = row_schema()
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


class IdxInput(Input):
    """MNIST's pair of files, packed by gzip or not: images (``...-images-idx3-ubyte``) and labels.

    Args:
        images: local path or URL of the images.
        labels: that of the labels; default: the images' name with ``labels`` and ``idx1`` in it.

    Raises:
        ConfigError: the name tells no name of labels.
    """

    def __init__(self, images: str, labels: str = "") -> None:
        self.place = images
        self.labels = labels or labels_beside(images)

    @cached_property
    def _sizes(self) -> tuple[int, int, int]:
        """Rows, height and width."""
        with _open(self.place) as file:
            magic, *sizes = struct.unpack(">4sIII", _take(file, self.place, 16))
        if magic != IDX_IMAGES:
            raise DataError(f"{self.place}: no idx file of byte images: it begins with {magic.hex()}", path=self.place)
        with _open(self.labels) as file:
            magic, labels = struct.unpack(">4sI", _take(file, self.labels, 8))
        if magic != IDX_LABELS:
            raise DataError(f"{self.labels}: no idx file of labels: it begins with {magic.hex()}", path=self.labels)
        rows, height, width = sizes
        if rows != labels:
            raise DataError(f"{self.place}: {rows} images, but {labels} labels in {self.labels}", path=self.place)
        if not 0 < height * width <= _PIXELS:
            raise DataError(f"{self.place}: images of {height} x {width}", path=self.place)
        return rows, height, width

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self._sizes[0]

    def state(self) -> Any:
        """See :meth:`Input.state`."""
        return [[found.size, found.changed] for found in (stamp(self.place), stamp(self.labels))]

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """See :meth:`Input.read`."""
        _, height, width = self._sizes
        size = height * width
        with _open(self.place) as images, _open(self.labels) as labels:
            images.seek(16 + start * size)
            labels.seek(8 + start)
            chunk = max(1, min(CHUNK, _CHUNK_BYTES // size))
            for first in range(start, stop, chunk):
                count = min(chunk, stop - first)
                pixels = np.frombuffer(_take(images, self.place, count * size), np.uint8)
                found = _take(labels, self.labels, count)
                yield _batch(first, 8, found, (1, height, width), pixels.reshape(count, height, width, 1))


def labels_beside(images: str) -> str:
    """The labels' file that belongs to a file of images.

    Example:
        >>> labels_beside("mnist/train-images-idx3-ubyte.gz")
        'mnist/train-labels-idx1-ubyte.gz'
    """
    folder, slash, name = images.rpartition("/")
    found = re.sub("idx3", "idx1", re.sub("images", "labels", name))
    if found == name:
        raise ConfigError(f"{images}: which file holds the labels? Name it with --label-file", path=images)
    return folder + slash + found


class CifarInput(Input):
    """CIFAR-10's binary batches: a file, or a folder whose ``data_batch_*.bin`` follow each other.

    The planes stay in the file's order, red first, as in the LMDBs that Caffe's own CIFAR-10 example makes.
    """

    def __init__(self, place: str) -> None:
        self.place = place

    @cached_property
    def files(self) -> list[tuple[str, int]]:
        """The files and their numbers of rows."""
        files = part_files(self.place, "CIFAR-10")
        if len(files) > 1:
            chosen = [name for name in files if re.search(r"data_batch_\d+\.bin$", name)]
            files = chosen or [name for name in files if name.endswith(".bin")]
        found = []
        for name in files:
            size = stamp(name).size
            if size % CIFAR_ROW or not size:
                raise DataError(
                    f"{name}: {size} bytes; CIFAR-10's binary batches are a multiple of {CIFAR_ROW}", path=name
                )
            found.append((name, size // CIFAR_ROW))
        if not found:
            raise DataError(f"{self.place}: no data_batch_*.bin there", path=self.place)
        return found

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(rows for _, rows in self.files)

    def state(self) -> Any:
        """See :meth:`Input.state`."""
        return [[name, stamp(name).changed] for name, _ in self.files]

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """See :meth:`Input.read`."""
        before = 0
        for name, rows in self.files:
            first, last = max(start, before), min(stop, before + rows)
            if first < last:
                with _open(name) as file:
                    file.seek((first - before) * CIFAR_ROW)
                    yield from self._read(file, name, first, last)
            before += rows

    def _read(self, file: IO[bytes] | gzip.GzipFile, name: str, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        for first in range(start, stop, CHUNK):
            count = min(CHUNK, stop - first)
            data = np.frombuffer(_take(file, name, count * CIFAR_ROW), np.uint8).reshape(count, CIFAR_ROW)
            images = data[:, 1:].reshape(count, *CIFAR_SHAPE).transpose(0, 2, 3, 1)
            yield _batch(first, 5, data[:, 0].tolist(), CIFAR_SHAPE, images)


def is_cifar(name: str) -> bool:
    """Whether a file may be a batch of CIFAR-10: the format has no mark but its size."""
    return name.endswith(".bin") and exists(name) and stamp(name).size % CIFAR_ROW == 0
