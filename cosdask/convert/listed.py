"""Image files that a list names, a line an image: ``cats/1.jpg 0``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from cosdask.convert.rows import CHUNK, Input, row_schema
from cosdask.errors import DataError, StorageError
from cosdask.storage import join, local_path, read_bytes, read_text, stamp

#: Most bytes of a list, and of an image file.
_LIST_LIMIT = 1 << 30
_IMAGE_LIMIT = 1 << 28
#: Bad lines that an error shows.
_SHOWN = 5


class Line(NamedTuple):
    """A line of a list: its number in the file from 1 on, the image's file, its label and id."""

    number: int
    file: str
    label: str
    id: str


class ListInput(Input):
    """The images of a list.

    Args:
        list_file: local path or URL of the list. The label stands behind the last blank of a line; with ``ids`` the id
            does, and the label in front of it. File names may hold blanks.
        root: the folder that the files' names count from; put before them as it is where it ends in a slash.
        ids: whether lines end in an id (``file label id``), as Binary2DataFrame's do; else the file's name is it.
        numbers: whether labels must be whole numbers.
        skip: leave out lines and files that cannot be read, and say which, in place of an error.
        shuffle: a seed that puts the lines into a random order.

    Raises:
        DataError: lines that cannot be understood, unless they are skipped.
        StorageError: the list is missing.
    """

    def __init__(
        self,
        list_file: str,
        root: str = "",
        ids: bool = False,
        numbers: bool = True,
        skip: bool = False,
        shuffle: int | None = None,
    ) -> None:
        self.place, self.root, self.ids, self.numbers = list_file, root, ids, numbers
        self.skip, self.shuffle = skip, shuffle

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker reads the list by itself, once, in place of a copy from the client with every task
        return _same_list, (self.place, self.root, self.ids, self.numbers, self.skip, self.shuffle)

    @cached_property
    def _parsed(self) -> tuple[list[Line], list[str]]:
        lines: list[Line] = []
        bad: list[str] = []
        for number, text in enumerate(read_text(self.place, _LIST_LIMIT).splitlines(), start=1):
            if not text.strip():
                continue
            line = self._line(number, text)
            if isinstance(line, str):
                bad.append(f"{self.place}:{number}: {line}")
            else:
                lines.append(line)
        if bad and not self.skip:
            more = f"\n  ... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
            shown = "\n  ".join(bad[:_SHOWN])
            raise DataError(
                f"{self.place}: {len(bad)} lines cannot be read (leave them out with --on-bad-rows skip):\n"
                f"  {shown}{more}",
                path=self.place,
            )
        if self.shuffle is not None:
            order = np.random.default_rng(self.shuffle).permutation(len(lines))
            lines = [lines[at] for at in order]
        return lines, bad

    def _line(self, number: int, text: str) -> Line | str:
        """A line's parts, or what is wrong with it."""
        wanted = 3 if self.ids else 2
        parts = text.strip().rsplit(None, wanted - 1)
        if len(parts) != wanted:
            form = "file label id" if self.ids else "file label"
            return f"{text[:80]!r}: {len(parts)} of the {wanted} fields of a line `{form}`"
        file, label = parts[:2]
        if self.numbers and not label.removeprefix("-").isdecimal():
            return f"{text[:80]!r}: the label {label!r} is not a whole number"
        return Line(number, file, label, parts[2] if self.ids else file)

    @property
    def lines(self) -> list[Line]:
        """The lines that name an image."""
        return self._parsed[0]

    @property
    def left_out(self) -> list[str]:
        """See :attr:`Input.left_out`: lines that cannot be understood."""
        return self._parsed[1]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.lines)

    @property
    def target(self) -> int:
        """See :attr:`Input.target`; image files are larger than digits."""
        return 1024

    def state(self) -> Any:
        """See :meth:`Input.state`."""
        found = stamp(self.place)
        return [found.size, found.changed, self.root, self.ids, self.skip, self.shuffle]

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """See :meth:`Input.read`; with ``skip``, files that cannot be read have no data (null)."""
        schema = row_schema()
        for first in range(start, stop, CHUNK):
            lines = self.lines[first : min(stop, first + CHUNK)]
            yield self._batch(lines, [self._bytes(line) for line in lines], schema)

    def _batch(self, lines: Sequence[Line], data: list[bytes | None], schema: pa.Schema) -> pa.RecordBatch:
        count = len(lines)
        columns: list[Any] = [[line.id for line in lines], [line.label for line in lines]]
        columns += [[1] * count, [0] * count, [0] * count, [True] * count, data]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _bytes(self, line: Line) -> bytes | None:
        name = self.file_of(line)
        try:
            data = read_bytes(name, _IMAGE_LIMIT)
            if data:
                return data
            reason = f"{name}: an empty file"
        except StorageError as error:
            reason = error.message
        if self.skip:
            return None
        raise DataError(f"{self.place}:{line.number}: {reason}", path=self.place, line=line.number, id=line.id)

    def file_of(self, line: Line) -> str:
        """Where a line's image lies."""
        if not self.root or local_path(line.file) is None:
            return line.file
        return join(self.root, line.file.lstrip("/"))


_LISTS: dict[tuple[Any, ...], ListInput] = {}


def _same_list(*settings: Any) -> ListInput:
    """One parsed list a process, as long as the file is the same."""
    place = settings[0]
    key = (*settings, stamp(place))
    if key not in _LISTS:
        _LISTS.clear()
        _LISTS[key] = ListInput(*settings)
    return _LISTS[key]
