"""Caffe's ImageData layers: a text file that names images and their labels."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from cosdask.data.base import CHUNK, CHUNK_BYTES
from cosdask.data.decode import COLOR, GRAY, decode_image, resize_image
from cosdask.data.image_rows import ImageRows
from cosdask.data.images import ImageSource, image_schema
from cosdask.data.index import Block, Index
from cosdask.errors import ConfigError, DataError, StorageError
from cosdask.storage import exists, join, local_path, parent, read_bytes, read_text

#: Most bytes of a list of files, and of one file.
LIST_LIMIT = 1 << 30
FILE_LIMIT = 1 << 28
_BLOCK = 1024
#: Images that are fetched at a time from filesystems that are not local.
_AT_ONCE = 8


@dataclass(frozen=True)
class ImageList:
    """The lines of a list: names as they are written there, int64 labels, and where each line is."""

    names: pa.Array
    labels: np.ndarray


def read_list(url: str) -> ImageList:
    """The lines ``name label`` of a list; a name may hold blanks. Empty lines are passed over.

    Raises:
        StorageError: the list is missing.
        DataError: a line without a label, or whose label is no whole number.
    """
    names: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(read_text(url, LIST_LIMIT).splitlines(), 1):
        line = line.rstrip()
        if not line.strip():
            continue
        name, blank, label = line.rpartition(" ") if " " in line else line.rpartition("\t")
        try:
            if not blank or not name:
                raise ValueError
            labels.append(int(label))
        except ValueError:
            raise DataError(
                f"{url}:{number}: a name, a blank and a whole number are expected, found {line[:80]!r}",
                path=url,
                line=number,
            ) from None
        names.append(name.rstrip())
    if not names:
        raise DataError(f"{url}: the list names no images", path=url)
    return ImageList(pa.array(names, pa.string()), np.array(labels, np.int64))


class ImageListSource(ImageSource):
    """The rows of an ``ImageData`` layer: a row a line, in the list's order.

    ``root_folder`` is put before each name as it is, so it ends in ``/``, as in Caffe. A relative result counts from
    the working directory, then from the prototxt's folder, then from the list's.
    """

    kind: ClassVar[str] = "ImageData"

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        param = self.layer.image_data_param
        if (param.new_height > 0) != (param.new_width > 0):
            raise ConfigError(
                f"{self.where}: give new_height and new_width, or neither; found {param.new_height} and "
                f"{param.new_width}",
                layer=self.layer.name,
            )

    @property
    def place(self) -> str:
        """The list."""
        return self.named_place(self.layer.image_data_param.source)

    @cached_property
    def listing(self) -> ImageList:
        """The lines of the list."""
        return read_list(self.place)

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of :meth:`read`: files as they lie there; their names are the SampleIDs."""
        return image_schema("HWC", pa.int64())

    @property
    def target_rows(self) -> int:
        """Rows of a partition: files are some 100 kB each."""
        return 512

    @property
    def shuffle_piece(self) -> int:
        """See :meth:`Source.shuffle_piece`: each row is a file by itself."""
        return 1

    def _count(self) -> Index:
        rows = len(self.listing.names)
        return Index(tuple(Block(min(_BLOCK, rows - at), {"line": at}) for at in range(0, rows, _BLOCK)))

    @cached_property
    def _folder(self) -> str:
        """What stands before each name: found once, by the first."""
        root = self.layer.image_data_param.root_folder
        first = root + self.listing.names[0].as_py()
        here = local_path(first)
        if here is None or here.is_absolute() or here.exists():
            return root
        for base in (self.base_dir, parent(self.place)):
            if base is not None and exists(join(base, first)):
                return join(base, root)
        return root

    def read(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.read`."""
        if stop > len(self.listing.names):
            raise self.changed(stop, len(self.listing.names))
        names: list[str] = []
        files: list[bytes] = []
        size, first = 0, start
        for name, data in self._files(start, stop):
            if files and (len(files) == chunk or size + len(data) > CHUNK_BYTES):
                yield self._batch(first, names, files)
                first, size, names, files = first + len(files), 0, [], []
            names.append(name)
            files.append(data)
            size += len(data)
        if files:
            yield self._batch(first, names, files)

    def _files(self, start: int, stop: int) -> Iterator[tuple[str, bytes]]:
        """Names and contents, in order; several at a time where they come over a network."""
        if local_path(self._folder + self.listing.names[0].as_py()) is not None:
            for row in range(start, stop):
                yield self._file(row)
            return
        with ThreadPoolExecutor(_AT_ONCE, "cosdask-images") as pool:
            for first in range(start, stop, _AT_ONCE):
                yield from pool.map(self._file, range(first, min(stop, first + _AT_ONCE)))

    def _file(self, row: int) -> tuple[str, bytes]:
        name = self.listing.names[row].as_py()
        try:
            return name, read_bytes(self._folder + name, FILE_LIMIT)
        except StorageError as error:
            raise DataError(
                f'{self.place}: row {row} (id "{name}"): {error.message}', path=self.place, row=row, id=name
            ) from error

    def _batch(self, first: int, names: list[str], files: list[bytes]) -> pa.RecordBatch:
        count = len(names)
        none = pa.array(np.zeros(count, np.int32))
        columns = [
            pa.array(names, pa.string()),
            pa.array(self.listing.labels[first : first + count]),
            none,
            none,
            none,
            pa.array(np.ones(count, np.bool_)),
            pa.array(files, pa.binary()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _encoded(self, rows: ImageRows, i: int) -> np.ndarray:
        param = self.layer.image_data_param
        image = decode_image(rows.data[i] or b"", COLOR if param.is_color else GRAY)
        return resize_image(image, param.new_height, param.new_width) if param.new_height else image
