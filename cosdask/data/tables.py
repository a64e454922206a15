"""Tables as they are stored: parquet, ORC, JSON lines, CSV and Arrow files, or in memory.

A table knows its blocks of rows and reads any range of them; what the columns mean is the sources' business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import ClassVar

import pyarrow as pa

from cosdask.data.index import Block, Index, kept_index
from cosdask.data.parts import part_files
from cosdask.errors import DataError
from cosdask.storage import FileStamp, stamp

#: Most bytes of a record batch's columns, about: Arrow's 32-bit offsets end at 2 GB.
BATCH_BYTES = 64 << 20


class Table(ABC):
    """Rows with named columns, in blocks."""

    #: Whether bytes are kept as base64 text, as Spark writes them where a format knows text only.
    textual: bool = False

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the rows lie, for messages."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The columns; in formats without a schema those of the first rows."""

    @property
    def stamps(self) -> list[tuple[str, FileStamp]] | None:
        """The files that hold the rows, with their sizes and times; None where there are none."""
        return None

    @abstractmethod
    def count(self) -> Index:
        """The blocks of rows."""

    @abstractmethod
    def read_block(self, block: Block, skip: int, count: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """``count`` rows of a block from the ``skip``-th on, in batches of any size, with at least ``columns``."""

    def read(
        self, index: Index, start: int, stop: int, columns: Sequence[str], chunk: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Rows ``start`` to ``stop``: each batch, of at most ``chunk`` rows, with the number of its first row.

        Raises:
            DataError: rows that cannot be read, or fewer than were counted.
        """
        while start < stop:
            number, skip = index.locate(start)
            end = min(stop, index.starts[number + 1])
            position = start
            for rows in self.read_block(index.blocks[number], skip, end - start, columns):
                size = _chunk(rows, chunk)
                for first in range(0, rows.num_rows, size):
                    yield position + first, rows.slice(first, size)
                position += rows.num_rows
            if position != end:
                raise DataError(
                    f"{self.place}: {end - start} rows were counted from row {start} on, {position - start} read; did "
                    "the data change meanwhile?",
                    path=self.place,
                )
            start = end


def _chunk(rows: pa.RecordBatch, chunk: int) -> int:
    if rows.num_rows == 0:
        return max(1, chunk)
    return max(1, min(chunk, BATCH_BYTES * rows.num_rows // max(1, rows.nbytes)))


class MemoryTable(Table):
    """An Arrow table in memory."""

    _BLOCK = 4096

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()

    @property
    def place(self) -> str:
        """Where the rows lie, for messages."""
        return "the dataframe"

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self.table.schema

    def count(self) -> Index:
        """See :meth:`Table.count`."""
        rows = self.table.num_rows
        return Index(tuple(Block(min(self._BLOCK, rows - at), {"start": at}) for at in range(0, rows, self._BLOCK)))

    def read_block(self, block: Block, skip: int, count: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Table.read_block`."""
        # a column of more than 2 GB stays in several chunks
        yield from self.table.slice(block.place["start"] + skip, count).to_batches()


class FileTable(Table):
    """Files of one format: one file, a folder of parts, or a glob; parts in the order of their names."""

    format: ClassVar[str] = ""
    #: A new layout of the blocks gets a new number, so that kept indexes of the old one are counted again.
    layout: ClassVar[int] = 1

    def __init__(self, place: str, wanted: Sequence[str] = ()) -> None:
        self._place = place
        self.wanted = tuple(wanted)

    @property
    def place(self) -> str:
        """Where the rows lie, for messages."""
        return self._place

    @cached_property
    def files(self) -> list[str]:
        """The parts.

        Raises:
            StorageError: nothing there.
            DataError: a folder without parts.
        """
        return part_files(self.place, self.format)

    @property
    def stamps(self) -> list[tuple[str, FileStamp]]:
        """See :meth:`Table.stamps`."""
        return [(name, stamp(name)) for name in self.files]

    @property
    def kept_as(self) -> str:
        """What the blocks depend on besides the files; a count is kept under it."""
        return f"table:{self.format}:{self.layout}"

    def count(self) -> Index:
        """See :meth:`Table.count`; kept, for counting may take a look at every file."""
        index = kept_index(self.kept_as, self.stamps, self._count)
        if not index.rows:
            raise DataError(f"{self.place}: the {self.format} files hold no rows", path=self.place)
        return index

    def _count(self) -> Index:
        return Index(tuple(block for name in self.files for block in self.blocks_of(name)))

    @abstractmethod
    def blocks_of(self, name: str) -> list[Block]:
        """The blocks of one file, ``{"file": name, ...}``; empty ones are left out."""
