"""Caffe's HDF5Data: a list of HDF5 files, a data set for each top, rows along the first axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from cosdask.data.base import CHUNK, CHUNK_BYTES, Source, window_rows
from cosdask.data.draw import Draw
from cosdask.data.index import Block, Index
from cosdask.errors import DataError, StorageError, did_you_mean
from cosdask.storage import FileStamp, filesystem, missing, parent, read_text, resolve, stamp

if TYPE_CHECKING:
    import h5py

#: Most bytes of a list of files.
_LIST_LIMIT = 64 << 20
#: Most numbers of a row.
_ROW_LIMIT = (1 << 31) - 1


@contextmanager
def reading_hdf5(name: str) -> Iterator[h5py.File]:
    """An HDF5 file on any filesystem; what goes wrong while it is read is an error that names it.

    Raises:
        StorageError: no such file.
        DataError: not a readable HDF5 file.
    """
    import h5py  # loaded by those who read HDF5 only

    fs, path = filesystem(name)
    try:
        with fs.open(path, "rb") as raw, h5py.File(raw, "r") as file:
            yield file
    except (DataError, StorageError):
        raise
    except FileNotFoundError as error:
        raise missing(name) from error
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(f"{name}: not a readable HDF5 file: {error}", path=name) from error


class Hdf5Source(Source):
    """The rows of an ``HDF5Data`` layer, in the order of the files; every top is a data set of numbers."""

    kind: ClassVar[str] = "HDF5Data"

    @property
    def batch_size(self) -> int:
        """Rows of a batch on one device, as the layer says."""
        return int(self.layer.hdf5_data_param.batch_size)

    @cached_property
    def files(self) -> list[str]:
        """The HDF5 files; relative names count from the working directory, then from beside the list."""
        name = self.named_place(self.layer.hdf5_data_param.source)
        lines = [line.strip() for line in read_text(name, _LIST_LIMIT).splitlines()]
        found = [resolve(line, parent(name)) for line in lines if line]
        if not found:
            raise DataError(f"{name}: the list names no HDF5 file", path=name)
        return found

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one row of each top."""
        with self._open(self.files[0]) as file:
            return {top: tuple(file[top].shape[1:]) for top in self.layer.top}

    @property
    def tops(self) -> dict[str, tuple[int, ...]]:
        """Caffe's shape of each top, batch included."""
        return {top: (self.batch_size, *shape) for top, shape in self.shapes.items()}

    @cached_property
    def schema(self) -> pa.Schema:
        """A text column ``id`` (the row's number), and a list of floats for each top."""
        fields = [("id", pa.string())]
        fields += [(top, pa.list_(pa.float32(), _size(shape))) for top, shape in self.shapes.items()]
        return pa.schema(fields, metadata={"layout": "CHW"})

    @contextmanager
    def _open(self, name: str) -> Iterator[h5py.File]:
        """An HDF5 file whose data sets fit the layer's tops."""
        with reading_hdf5(name) as file:
            self._check(name, file)
            yield file

    def _check(self, name: str, file: h5py.File) -> None:
        import h5py

        sizes = {}
        for top in self.layer.top:
            if not isinstance(file.get(top), h5py.Dataset):
                raise DataError(
                    f'{name}: no data set "{top}", which is a top of {self.where}; there are {", ".join(file)}.'
                    f"{did_you_mean(top, file)}",
                    path=name,
                    column=top,
                )
            if file[top].ndim < 1 or file[top].dtype.kind not in "fiub":
                raise DataError(
                    f'{name}: the data set "{top}" is {file[top].dtype} of shape {file[top].shape}; numbers with rows '
                    "along the first axis are needed",
                    path=name,
                    column=top,
                )
            if _size(file[top].shape[1:]) > _ROW_LIMIT:
                raise DataError(f'{name}: a row of "{top}" has shape {file[top].shape[1:]}', path=name, column=top)
            sizes[top] = file[top].shape[0]
        if len(set(sizes.values())) > 1:
            raise DataError(f"{name}: the data sets differ in rows: {sizes}", path=name)

    @property
    def stamps(self) -> list[tuple[str, FileStamp]] | None:
        """See :meth:`Source.stamps`."""
        return [(name, stamp(name)) for name in self.files]

    @property
    def shuffle_window(self) -> int:
        """See :meth:`Source.shuffle_window`."""
        return window_rows(self._row_bytes, self.target_rows)

    @cached_property
    def _row_bytes(self) -> int:
        return max(1, 4 * sum(_size(shape) for shape in self.shapes.values()))

    def _count(self) -> Index:
        blocks = []
        for number, name in enumerate(self.files):
            with self._open(name) as file:
                for top, shape in self.shapes.items():
                    if file[top].shape[1:] != shape:
                        raise DataError(
                            f'{name}: "{top}" has rows of shape {file[top].shape[1:]}, in {self.files[0]} {shape}',
                            path=name,
                            column=top,
                        )
                rows = int(file[self.layer.top[0]].shape[0])
            if rows:
                blocks.append(Block(rows, {"file": number}))
        if not blocks:
            raise DataError(f"{self.where}: the HDF5 files hold no rows", layer=self.layer.name)
        return Index(tuple(blocks))

    def _file_of(self, place: Mapping[str, Any]) -> str:
        return self.files[place["file"]]

    def read(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.read`."""
        chunk = max(1, min(chunk, CHUNK_BYTES // self._row_bytes))
        while start < stop:
            number, skip = self.index().locate(start)
            end = min(stop, self.index().starts[number + 1])
            with self._open(self.files[self.index().blocks[number].place["file"]]) as file:
                while start < end:
                    count = min(chunk, end - start)
                    yield self._batch(file, start, skip, count)
                    start, skip = start + count, skip + count

    def _batch(self, file: h5py.File, start: int, skip: int, count: int) -> pa.RecordBatch:
        arrays = [pa.array([str(row) for row in range(start, start + count)])]
        for top, shape in self.shapes.items():
            values = np.asarray(file[top][skip : skip + count], np.float32)
            if len(values) != count:
                raise self.changed(count, len(values))
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), _size(shape)))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def decode(self, rows: pa.RecordBatch, draw: Draw) -> dict[str, np.ndarray]:
        """See :meth:`Source.decode`."""
        return {
            top: rows.column(top).flatten().to_numpy().reshape(rows.num_rows, *shape)
            for top, shape in self.shapes.items()
        }


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
