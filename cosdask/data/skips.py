"""Rows that were left out because they cannot be read: counted, and listed up to a limit."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from cosdask.errors import CosdaskError, DataError, StorageError

#: Rows that are listed; further ones are only counted.
LISTED = 1000
#: Most characters of a reason.
_REASON = 500


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read.

    Attributes:
        source: where the rows lie.
        partition: number of the partition that holds the row; None where it is not known.
        row: the row's number in storage order.
        id: the SampleID; empty where it cannot be read.
        column: the column at fault; empty where it is not one.
        reason: the whole error.
    """

    source: str
    partition: int | None
    row: int
    id: str
    column: str
    reason: str

    @classmethod
    def of(cls, error: CosdaskError) -> BadRow:
        """What an error of :func:`bad_row` says."""
        where = error.where
        names = [str(where.get(name, "")) for name in ("path", "id", "column")]
        return cls(names[0], where.get("partition"), int(where["row"]), names[1], names[2], error.message[:_REASON])

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self)


def bad_row(error: Exception) -> int | None:
    """The number of the row that an error is about; None for errors that are not about one row."""
    row = error.where.get("row") if isinstance(error, DataError | StorageError) else None
    return row if isinstance(row, int) else None


class Skips:
    """Counts and lists rows that are left out; may be used from several threads, and pickled.

    Example:
        >>> skips = Skips()
        >>> skips.add(DataError("a.mdb: row 7: no image", path="a.mdb", row=7, column="data"))
        >>> skips.count, [bad.row for bad in skips.news()], skips.news()
        (1, [7], [])
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listed: dict[tuple[str, int], BadRow] = {}
        self._told = 0
        self.count = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def add(self, error: CosdaskError) -> None:
        """Count a row once more; list it if it is new."""
        bad = BadRow.of(error)
        with self._lock:
            self.count += 1
            if len(self._listed) < LISTED:
                self._listed.setdefault((bad.source, bad.row), bad)

    def merge(self, other: Skips) -> None:
        """Count and list what the other one did."""
        rows = other.rows
        with self._lock:
            self.count += other.count
            for bad in rows:
                if len(self._listed) < LISTED:
                    self._listed.setdefault((bad.source, bad.row), bad)

    @property
    def rows(self) -> list[BadRow]:
        """The rows listed so far, each once, in the order in which they were met."""
        with self._lock:
            return list(self._listed.values())

    def news(self) -> list[BadRow]:
        """The rows listed since this was last asked."""
        rows = self.rows
        found, self._told = rows[self._told :], len(rows)
        return found


def in_words(count: int, rows: Iterable[BadRow], shown: int = 3) -> str:
    """A message: how many, and the first of them."""
    first = [row.reason for row in rows][:shown]
    return f"{count} time(s) a row that cannot be read was left out: {'; '.join(first)}"
