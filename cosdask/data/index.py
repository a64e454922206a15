"""The index of a source: how many rows its blocks hold, counted once and kept."""

from __future__ import annotations

import bisect
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from cosdask.caches import cache_folder
from cosdask.errors import DataError, StorageError
from cosdask.storage import FileStamp, atomic_write

_LOG = logging.getLogger(__name__)
#: A new layout of the kept indexes gets a new number, so that old ones are counted again.
_VERSION = 2


@dataclass(frozen=True)
class Block:
    """Rows that lie together; ``place`` (JSON values) tells the source where they begin."""

    rows: int
    place: Mapping[str, Any]


@dataclass(frozen=True)
class Index:
    """The blocks of a source in storage order.

    Example:
        >>> index = Index((Block(3, {}), Block(2, {})))
        >>> index.rows, index.locate(3)
        (5, (1, 0))
    """

    blocks: tuple[Block, ...]

    @cached_property
    def starts(self) -> list[int]:
        """The first row of each block, then the number of all rows."""
        return [0, *accumulate(block.rows for block in self.blocks)]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.starts[-1]

    def locate(self, row: int) -> tuple[int, int]:
        """The block that holds ``row``, and the row's place in it."""
        if not 0 <= row < self.rows:
            raise DataError(f"row {row} of a source with {self.rows} rows", row=row)
        number = bisect.bisect_right(self.starts, row) - 1
        return number, row - self.starts[number]

    def ranges(self, target: int) -> list[tuple[int, int]]:
        """Ranges of rows along block boundaries, each the fewest blocks that reach ``target`` rows."""
        found: list[tuple[int, int]] = []
        start = 0
        for stop in self.starts[1:]:
            if stop - start >= target:
                found.append((start, stop))
                start = stop
        if start < self.rows:
            found.append((start, self.rows))
        return found

    def to_json(self) -> dict[str, Any]:
        """JSON values from which :meth:`from_json` makes an equal index."""
        return {"version": _VERSION, "blocks": [[block.rows, dict(block.place)] for block in self.blocks]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Index:
        """The index that :meth:`to_json` described.

        Raises:
            DataError: the description is damaged or of another version.
        """
        try:
            if value["version"] != _VERSION:
                raise DataError(f"an index of layout {value['version']}, this cosdask reads layout {_VERSION}")
            return cls(tuple(Block(int(rows), dict(place)) for rows, place in value["blocks"]))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"a damaged index: {error!r}") from error


@dataclass(frozen=True)
class Extent:
    """Rows ``start`` to ``stop`` and the bytes of a file that hold them, about; ``last`` None: to the file's end."""

    start: int
    stop: int
    url: str
    first: int = 0
    last: int | None = None


def file_extents(index: Index, name_of: Callable[[Mapping[str, Any]], str]) -> list[Extent]:
    """Where the rows of an index lie: by block where its places give bytes, else by file.

    Args:
        index: whose blocks follow each other within a file as in it.
        name_of: the URL of the file of a block's place; "" for places without one.

    Example:
        >>> blocks = (Block(3, {"file": "a"}), Block(2, {"file": "a"}), Block(4, {"file": "b", "offset": 9, "size": 5}))
        >>> [(e.start, e.stop, e.url, e.last) for e in file_extents(Index(blocks), lambda place: place["file"])]
        [(0, 5, 'a', None), (5, 9, 'b', 14)]
    """
    found: list[Extent] = []
    for block, start, stop in zip(index.blocks, index.starts, index.starts[1:], strict=False):
        name = name_of(block.place)
        size = block.place.get("size", block.place.get("length"))
        if not name:
            continue
        if size is not None and "offset" in block.place:
            first = int(block.place["offset"])
            found.append(Extent(start, stop, name, first, first + int(size)))
        elif found and found[-1].url == name and found[-1].stop == start:
            found[-1] = Extent(found[-1].start, stop, name)
        else:
            found.append(Extent(start, stop, name))
    return found


def kept_index(kind: str, files: Sequence[tuple[str, FileStamp]], count: Callable[[], Index]) -> Index:
    """The index of ``files``, counted by ``count`` only when no kept one has the same paths, sizes and times."""
    found = find_index(kind, files)
    if found is None:
        found = count()
        keep_index(kind, files, found)
    return found


def find_index(kind: str, files: Sequence[tuple[str, FileStamp]]) -> Index | None:
    """The kept index of files with these paths, sizes and times; None where there is none, or a damaged one."""
    place = _place(kind, files)
    try:
        return Index.from_json(json.loads(place.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _LOG.warning("counting rows again, the kept index %s cannot be used: %s", place, error)
        return None


def keep_index(kind: str, files: Sequence[tuple[str, FileStamp]], index: Index) -> None:
    """Keep an index for :func:`find_index`; where the cache folder cannot be written, it is not kept.

    Of several processes that count the same files at once the last one's index stays, which equals the others'.
    """
    try:
        atomic_write(_place(kind, files), json.dumps(index.to_json()))
    except StorageError as error:
        _LOG.warning("rows will be counted again next time: %s", error)


def _place(kind: str, files: Sequence[tuple[str, FileStamp]]) -> Path:
    key = json.dumps([_VERSION, kind, [[name, stamp.size, stamp.changed] for name, stamp in files]])
    return cache_folder("index") / (hashlib.sha256(key.encode()).hexdigest()[:40] + ".json")
