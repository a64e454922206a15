"""Rows of a dataframe that Dask workers wrote beside themselves as Arrow files, and where each file lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from cosdask.data.index import Block, Index
from cosdask.data.tables import Table
from cosdask.errors import DataError, StorageError
from cosdask.storage import local_path, missing

#: Rows of a record batch in files that workers write.
STAGED_ROWS = 4096


@dataclass(frozen=True)
class StagedFile:
    """An Arrow file on some worker's disk with rows ``start`` to ``stop`` of a part of the dataframe."""

    part: int
    start: int
    stop: int
    path: str

    def holds(self, part: int, start: int, stop: int) -> bool:
        """Whether rows ``start`` to ``stop`` of ``part`` are in it."""
        return self.part == part and self.start <= start and stop <= self.stop


def held_by(files: Sequence[StagedFile], part: int, start: int, stop: int) -> bool:
    """Whether rows ``start`` to ``stop`` of ``part`` are in some files, each row in one of them at least.

    Example:
        >>> files = [StagedFile(0, 4, 9, "b"), StagedFile(0, 0, 4, "a")]
        >>> held_by(files, 0, 2, 8), held_by(files, 0, 2, 10), held_by(files[:1], 0, 2, 8)
        (True, False, False)
    """
    for file in sorted((file for file in files if file.part == part), key=lambda file: file.start):
        if file.start <= start < file.stop:
            start = file.stop
    return start >= stop


class StagedTable(Table):
    """Pieces of a dataframe's partitions in the order in which they are read.

    A piece may be in several files, whole or in slices, on several machines; those that are on this machine are read.

    Args:
        pieces: ``(part, start, stop)``: rows of a partition, in reading order.
        files: where they are.
    """

    def __init__(self, pieces: Sequence[tuple[int, int, int]], files: Sequence[StagedFile]) -> None:
        self.pieces = [(int(part), int(start), int(stop)) for part, start, stop in pieces]
        self.files = list(files)

    @classmethod
    def of_files(cls, names: Sequence[str]) -> StagedTable:
        """A table of whole files on this machine, in order."""
        files = []
        for part, name in enumerate(names):
            with open_arrow(name) as file:
                rows = sum(file.get_batch(at).num_rows for at in range(file.num_record_batches))
            files.append(StagedFile(part, 0, rows, name))
        return cls([(file.part, 0, file.stop) for file in files if file.stop], files)

    @property
    def place(self) -> str:
        """Where the rows lie, for messages."""
        names = [file.path for file in self.files]
        return ", ".join(names[:1]) + " ..." * (len(names) > 1) or "the dataframe"

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the first file that is on this machine."""
        here = next((file.path for file in self.files if Path(file.path).exists()), None)
        if here is None:
            raise StorageError("none of the dataframe's rows are on this machine", path=self.place)
        with open_arrow(here) as file:
            return file.schema

    def count(self) -> Index:
        """See :meth:`Table.count`."""
        blocks = []
        for part, start, stop in self.pieces:
            for first in range(start, stop, STAGED_ROWS):
                blocks.append(Block(min(STAGED_ROWS, stop - first), {"part": part, "start": first}))
        return Index(tuple(blocks))

    def read_block(self, block: Block, skip: int, count: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Table.read_block`."""
        part, start = block.place["part"], block.place["start"] + skip
        stop = start + count
        while start < stop:
            file = self._find(part, start, stop)
            last = min(stop, file.stop)
            yield from read_rows(file.path, start - file.start, last - start)
            start = last

    def _find(self, part: int, start: int, stop: int) -> StagedFile:
        """A file on this machine with as many of the rows as there are in one, from the first on."""
        candidates = [file for file in self.files if file.holds(part, start, start + 1)]
        for file in sorted(candidates, key=lambda file: -min(file.stop, stop)):
            if Path(file.path).exists():
                return file
        if len(candidates) == 1:
            raise missing(candidates[0].path)
        raise StorageError(
            f"rows {start} to {stop} of partition {part} of the dataframe are not on this machine; they were written "
            f"as {', '.join(file.path for file in candidates) or 'nothing'}",
            part=part,
        )

    def spec(self) -> dict[str, Any]:
        """JSON values for :meth:`from_spec`."""
        files = [[file.part, file.start, file.stop, file.path] for file in self.files]
        return {"pieces": [list(piece) for piece in self.pieces], "files": files}

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> StagedTable:
        """The table that :meth:`spec` described."""
        return cls([tuple(piece) for piece in spec["pieces"]], [StagedFile(*file) for file in spec["files"]])


@contextmanager
def open_arrow(name: str) -> Iterator[pa.RecordBatchFileReader]:
    """An Arrow IPC file, mapped into memory: reading a slice costs no copy.

    Raises:
        StorageError: missing, or not on a local disk.
        DataError: damaged.
    """
    path = local_path(name)
    if path is None:
        raise StorageError(f"{name}: Arrow files of rows are read from local disks", path=name)
    if not path.exists():
        raise missing(name)
    try:
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, StorageError):
            raise
        raise DataError(f"{name}: not a readable Arrow file: {error}", path=name) from error


def read_rows(name: str, start: int, count: int) -> Iterator[pa.RecordBatch]:
    """``count`` rows of an Arrow file from row ``start`` on, batch by batch.

    Raises:
        DataError: the file is damaged or ends earlier.
    """
    with open_arrow(name) as file:
        at = 0
        for number in range(file.num_record_batches):
            rows = file.get_batch(number)
            if at + rows.num_rows > start and count:
                part = rows.slice(max(0, start - at), count)
                start, count = start + part.num_rows, count - part.num_rows
                yield part
            at += rows.num_rows
            if not count:
                return
    raise DataError(f"{name}: it ends {count} rows early; did the file change meanwhile?", path=name)


def write_rows(path: str, table: pa.Table) -> None:
    """Write an Arrow file whose record batches have :data:`STAGED_ROWS` rows, beside its place and then renamed."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    unfinished = f"{path}.unfinished"
    with pa.OSFile(unfinished, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for first in range(0, table.num_rows, STAGED_ROWS):
            writer.write_table(table.slice(first, STAGED_ROWS).combine_chunks())
    Path(unfinished).rename(path)
