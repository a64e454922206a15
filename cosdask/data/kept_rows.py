"""``-persistent``: rows that lie far away, kept on the local disk of the machine that reads them.

Rows are kept in cells of so many rows, each an Arrow file that is whole or absent. The files' names hold what the rows
are read from (paths, sizes, times, the layer's settings), so another version of the data has other cells. They take at
most half of the disk space that is free or taken by such cells: cells of other data go, the longest unused ones first;
where that is not enough, the remaining rows are read where they lie.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from google.protobuf import text_format

from cosdask.caches import cache_folder
from cosdask.data.skips import bad_row
from cosdask.data.staged import open_arrow
from cosdask.errors import CosdaskError, DataError, StorageError
from cosdask.proto import caffe_pb2
from cosdask.storage import FileStamp, atomic_output, local_path

if TYPE_CHECKING:
    from cosdask.data.base import Source

_LOG = logging.getLogger(__name__)
#: A new layout of cells gets a new number.
_VERSION = 1
#: Cells of a source's partition, and the least and most rows of a cell: some megabytes.
_CELLS, _LEAST, _MOST = 16, 16, 1024
#: Bytes that are added before the folder is measured again.
_LOOK = 64 << 20
#: Settings of a layer that change nothing of what is read.
_NOT_READ = ("name", "top", "include", "exclude", "transform_param")


class KeptRows:
    """The cells of one source.

    Args:
        source: the rows.
        files: the files that hold them, with size and time of the last change.
    """

    def __init__(self, source: Source, files: Sequence[tuple[str, FileStamp]]) -> None:
        self._source = source
        self.step = max(_LEAST, min(_MOST, source.target_rows // _CELLS))
        stamps = [[name, stamp.size, stamp.changed] for name, stamp in files]
        key = [_VERSION, source.kind, _read_settings(source.layer), str(source.schema), source.rows, self.step, stamps]
        self._prefix = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        self._folder = cache_folder("rows")
        self._room = 0
        self._full = False

    @classmethod
    def of(cls, source: Source) -> KeptRows | None:
        """A source's cells; None where its rows lie on this machine, or its files do not show every change."""
        files = source.stamps
        if not files or all(local_path(name) is not None for name, _ in files):
            return None
        return cls(source, files) if all(stamp.changed for _, stamp in files) else None

    def read(self, start: int, stop: int, chunk: int) -> Iterator[pa.RecordBatch]:
        """As :meth:`Source.read`, from kept cells where there are such, and keeping the others.

        Raises:
            DataError: a row that cannot be read; its cell is not kept.
        """
        while start < stop:
            rows = self._find(start // self.step)
            if rows is not None:
                first = start // self.step * self.step
                yield from _part([rows], start - first, stop - first, chunk)
                start = first + rows.num_rows
                continue
            cell = start // self.step + 1
            while cell * self.step < stop and not self._path(cell).exists():
                cell += 1
            end = min(stop, cell * self.step)
            yield from self._fetch(start, end, chunk)
            start = end

    def _fetch(self, start: int, stop: int, chunk: int) -> Iterator[pa.RecordBatch]:
        """Rows from where they lie; the cells that they are in are read and kept whole."""
        if self._full:
            yield from self._source.read(start, stop, chunk)
            return
        step = self.step
        position = start // step * step
        end = min(self._source.rows, -(-stop // step) * step)
        cell: list[pa.RecordBatch] = []
        try:
            for rows in self._source.read(position, end, step):
                while rows.num_rows:
                    cell.append(rows.slice(0, step - position % step))
                    position += cell[-1].num_rows
                    rows = rows.slice(cell[-1].num_rows)
                    if position % step == 0 or position == end:
                        first = (position - 1) // step * step
                        self._keep(first // step, cell)
                        yield from _part(cell, start - first, min(stop, position) - first, chunk)
                        start, cell = min(stop, position), []
        except CosdaskError as error:
            if bad_row(error) is None:
                raise
            # Those before the bad row come yet, and the error only where that row was asked for.
            yield from self._source.read(start, stop, chunk)

    # Cells.

    def _path(self, cell: int) -> Path:
        return self._folder / f"{self._prefix}-{cell}.arrow"

    def _rows_of(self, cell: int) -> int:
        return min(self.step, self._source.rows - cell * self.step)

    def _find(self, cell: int) -> pa.RecordBatch | None:
        """A kept cell; None where there is none, or a damaged one."""
        path = self._path(cell)
        if not path.exists():
            return None
        try:
            with open_arrow(str(path)) as file:
                rows = file.get_batch(0)
            if rows.num_rows != self._rows_of(cell) or rows.schema != self._source.schema:
                raise DataError(f"{path}: {rows.num_rows} rows where {self._rows_of(cell)} were kept")
            with contextlib.suppress(OSError):
                os.utime(path)  # lately used
        except (CosdaskError, pa.ArrowException) as error:
            _LOG.warning("rows are read again where they lie: %s", error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return rows

    def _keep(self, cell: int, batches: list[pa.RecordBatch]) -> None:
        if self._full or sum(rows.num_rows for rows in batches) != self._rows_of(cell):
            return
        table = pa.Table.from_batches(batches).combine_chunks()
        if not self._has_room(table.nbytes):
            self._stop(f"half of the free disk space of {self._folder} is taken")
            return
        try:
            with atomic_output(self._path(cell)) as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
        except StorageError as error:
            self._stop(str(error))

    def _stop(self, reason: str) -> None:
        self._full = True
        _LOG.warning("%s: no more rows are kept on this machine's disk: %s", self._source.where, reason)

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes more may be kept; from time to time the folder is measured, and others' cells go."""
        if self._room < size:
            self._room = self._made_room(size)
        self._room -= size
        return self._room >= 0

    def _made_room(self, size: int) -> int:
        """Bytes that may be added before the next look, after cells of other data were deleted as far as needed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        found = []
        for entry in os.scandir(self._folder):
            with contextlib.suppress(OSError):  # gone meanwhile
                about = entry.stat()
                found.append((about.st_mtime, about.st_size, entry.path))
        used = sum(bytes_ for _, bytes_, _ in found)
        limit = (used + shutil.disk_usage(self._folder).free) // 2
        for _, bytes_, path in sorted(found):
            if used + size <= limit:
                break
            if not Path(path).name.startswith(self._prefix):
                with contextlib.suppress(OSError):
                    os.unlink(path)
                    used -= bytes_
        return min(max(size, _LOOK), limit - used)


def _part(batches: list[pa.RecordBatch], start: int, stop: int, chunk: int) -> Iterator[pa.RecordBatch]:
    """Rows ``start`` to ``stop`` of batches that follow each other, ``chunk`` at a time at most."""
    for rows in batches:
        for at in range(max(0, start), min(stop, rows.num_rows), chunk):
            yield rows.slice(at, min(chunk, min(stop, rows.num_rows) - at))
        start, stop = start - rows.num_rows, stop - rows.num_rows


def _read_settings(layer: caffe_pb2.LayerParameter) -> str:
    """A layer's settings without those that only say what becomes of its rows."""
    kept = caffe_pb2.LayerParameter()
    kept.CopyFrom(layer)
    for name in _NOT_READ:
        kept.ClearField(name)
    for block in (kept.data_param, kept.memory_data_param, kept.cos_data_param, kept.hdf5_data_param):
        block.ClearField("batch_size")
    return text_format.MessageToString(kept, as_one_line=True)


def rows_of(source: Source, start: int, stop: int, chunk: int) -> Iterator[pa.RecordBatch]:
    """:meth:`Source.read`, by way of the rows kept on this machine where they are asked for."""
    kept = source.kept
    return source.read(start, stop, chunk) if kept is None else kept.read(start, stop, chunk)
