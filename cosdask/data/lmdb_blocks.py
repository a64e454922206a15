"""The index of an LMDB: rows by block, from leaf pages that come in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cosdask.data.index import Block
from cosdask.data.lmdb_pages import Leaves, Meta, check_order

__all__ = ["Blocks", "Fetch", "Path", "Piece"]

#: Which child leads down, a number a level.
Path = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """Leaf pages that follow each other below one branch page; ``first`` is the number of the first there."""

    path: Path
    first: int
    pages: np.ndarray


@dataclass(frozen=True)
class Fetch:
    """Leaf pages that were fetched together."""

    pieces: list[Piece]
    leaves: Leaves


class Blocks:
    """Makes the blocks of leaf pages that come in order; a new branch page begins a new block."""

    def __init__(self, step: int, meta: Meta) -> None:
        self._step, self._meta = step, meta
        self._key = b""
        self._done: list[Block] = []
        self._path: Path | None = None
        self._starts: list[dict[str, Any]] = []
        self._rows = 0

    def add(self, fetch: Fetch) -> None:
        """Take some leaf pages.

        Raises:
            DataError: their keys do not ascend, so that rows come twice or not at all.
        """
        self._key = check_order(fetch.leaves, self._key, self._meta)
        ends = np.cumsum(fetch.leaves.counts)
        leaf, row = 0, 0
        for piece in fetch.pieces:
            if piece.path != self._path:
                self._close()
                self._path = piece.path
            last = leaf + len(piece.pages)
            rows = int(ends[last - 1]) - row
            for first in range(-self._rows % self._step, rows, self._step):
                number = int(np.searchsorted(ends, row + first, side="right"))
                node = row + first - (int(ends[number - 1]) if number else 0)
                at = [*piece.path, piece.first + number - leaf, node]
                self._starts.append({"at": at, "key": fetch.leaves.key(row + first).hex()})
            self._rows += rows
            leaf, row = last, row + rows

    def _close(self) -> None:
        for number, place in enumerate(self._starts):
            self._done.append(Block(min(self._step, self._rows - number * self._step), place))
        self._starts, self._rows = [], 0

    def done(self) -> list[Block]:
        """All blocks."""
        self._close()
        return self._done
