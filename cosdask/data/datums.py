"""Sources whose rows are Datums in a key-value store: LMDB and LevelDB.

Keys give the order and the SampleID. Such a store holds no row numbers: the index remembers the place of every so many
rows, and reading starts from the nearest one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError

from cosdask.data.base import CHUNK, CHUNK_BYTES
from cosdask.data.datum import DatumReader, DatumView
from cosdask.data.image_rows import Buffer, ImageRows
from cosdask.data.images import FIRST_ROWS, ImageSource, image_schema
from cosdask.data.rows import Records, regrouped
from cosdask.errors import DataError
from cosdask.proto import caffe_pb2
from cosdask.storage import local_path

#: Rows between two remembered places, at most and at least; fewer where rows are large.
_BLOCK_ROWS = 1024
_LEAST_ROWS = 64
_BLOCK_BYTES = 16 << 20
#: Blocks of a source, at least, where blocks of the least size give so many.
_BLOCKS = 1024
_PARTITION_BYTES = 64 << 20


class DatumSource(ImageSource):
    """Datums, raw or encoded, bytes or floats, by key."""

    @cached_property
    def location(self) -> str:
        """The store's folder or file: an absolute local path or a URL."""
        param = self.layer.memory_data_param if self.memory else self.layer.data_param
        found = self.named_place(param.source)
        here = local_path(found)
        return found if here is None else str(here)

    @property
    def place(self) -> str:
        """Where the rows lie, for messages."""
        return self.location

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of :meth:`read`; rows of floats have ``float_data`` too."""
        datum = self._first_datum()
        return image_schema("CHW", pa.int64(), floats=not datum.data and len(datum.float_data) > 0)

    def _first_datum(self) -> caffe_pb2.Datum:
        """The first row; where bad rows are skipped, the first that is a Datum with pixels."""
        last: DataError | None = None
        row = 0
        for records in self._records(0, min(self.rows, FIRST_ROWS) if self.skipping else 1):
            for key, value in zip(records.keys, records.values, strict=True):
                try:
                    datum = self._datum(key, value, row)
                    if datum.data or datum.float_data or not self.skipping:
                        return datum
                except DataError as error:
                    if not self.skipping:
                        raise self.placed(error) from error
                    last = error
                row += 1
        if row == 0:
            raise self.changed(self.rows, 0)
        raise DataError(f"{self.place}: none of the first {row} rows holds pixels; the last error: {last}") from last

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """About how many bytes of the store belong to a row, at least 1."""

    @abstractmethod
    def _records(self, start: int, stop: int) -> Iterator[Records]:
        """The records of rows ``start`` to ``stop``, in any grouping."""

    @property
    def target_rows(self) -> int:
        """Rows of a partition, so that it takes a moderate part of memory."""
        return min(8 * _BLOCK_ROWS, max(1, _PARTITION_BYTES // self.row_bytes))

    def _block_rows(self, rows: int) -> int:
        """Rows of a block of the index: fewer in small stores, so that several ranks find their places at once."""
        by_size = max(16, _BLOCK_BYTES // self.row_bytes)
        return min(by_size, _BLOCK_ROWS, max(_LEAST_ROWS, rows // _BLOCKS))

    def _no_rows(self) -> DataError:
        return DataError(
            f"{self.place}: the {self.kind} is empty; was it written to the end, and is this the right folder?",
            path=self.place,
        )

    def read(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.read`."""
        if start >= stop:
            return
        schema = self.schema
        size = max(1, min(chunk, CHUNK_BYTES // self.row_bytes))
        position = start
        for records in regrouped(self._records(start, stop), size):
            pairs = zip(records.keys, records.values, strict=True)
            datums = [self._datum(key, value, position + i) for i, (key, value) in enumerate(pairs)]
            yield self._batch(records.keys, datums, schema)
            position += len(datums)

    def stream(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[ImageRows]:
        """See :meth:`Source.stream`: the pixels stay where they were read to, or in the mapped file."""
        if start >= stop:
            return
        read = DatumReader().read
        for records in regrouped(self._records(start, stop), chunk):
            yield self._image_rows(records, start, read)
            start += len(records.keys)

    def _image_rows(self, records: Records, first: int, read: Callable[[Buffer], DatumView]) -> ImageRows:
        views = []
        for i, value in enumerate(records.values):
            try:
                views.append(read(value))
            except DataError as error:
                raise self._not_a_datum(records.keys[i], first + i, error) from error
        return ImageRows(
            layout="CHW",
            names=list(records.keys),
            labels=[view.label for view in views],
            sizes=[view.size for view in views],
            encoded=[view.encoded for view in views],
            data=[view.data for view in views],
            floats=[view.floats for view in views] if self.dtype == np.float32 else None,
        )

    def _batch(self, keys: Sequence[bytes], datums: list[Any], schema: pa.Schema) -> pa.RecordBatch:
        columns: list[Any] = [
            [key.decode("utf-8", "backslashreplace") for key in keys],
            [datum.label for datum in datums],
            [datum.channels for datum in datums],
            [datum.height for datum in datums],
            [datum.width for datum in datums],
            [datum.encoded for datum in datums],
            [datum.data for datum in datums],
        ]
        if "float_data" in schema.names:
            columns.append([datum.float_data if len(datum.float_data) else None for datum in datums])
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _datum(self, key: bytes, value: bytes | memoryview, row: int) -> caffe_pb2.Datum:
        try:
            return caffe_pb2.Datum.FromString(value)  # type: ignore[arg-type]  # it takes views too
        except DecodeError as error:
            raise self._not_a_datum(key, row, DataError(f"not a Datum: {error}")) from error

    def _not_a_datum(self, key: bytes, row: int, error: DataError) -> DataError:
        name = key.decode("utf-8", "backslashreplace")
        where = {"path": self.place, "row": row, "id": name, "column": "data"}
        return DataError(f'{self.place}: row {row} (id "{name}"): {error}', **where)
