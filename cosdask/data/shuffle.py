"""The order of rows in a shuffled epoch: blocks in a random order, then rows within windows of that sequence.

Both are functions of seed and epoch alone, so every rank, and a run that is taken up again, finds the same order
without being told. Blocks keep reading near to sequential; a window bounds what must be in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from cosdask.data.draw import Draw
from cosdask.errors import ConfigError

if TYPE_CHECKING:
    from cosdask.data.base import Source

#: Sets the numbers of the order apart from those of crops and mirrors.
_STREAM = -1
_BLOCKS, _ROWS = range(2)


@dataclass(frozen=True)
class Run:
    """Rows ``start`` to ``stop`` (excluded), in storage order, of a block that goes on to ``end``."""

    start: int
    stop: int
    end: int


@dataclass(frozen=True)
class Window:
    """Rows that are read together.

    Attributes:
        runs: what is read, in this order.
        take: int64, which of the rows read are wanted, counted over all runs, in the order in which they are wanted.
        numbers: int64, the row number of each row wanted.
    """

    runs: list[Run]
    take: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class Shuffle:
    """The order of each epoch.

    Args:
        starts: the first row of each block in storage order, then the number of all rows.
        window: rows that are mixed with each other.
        seed: the run's seed.

    Raises:
        ConfigError: a window of no rows, or starts that do not grow.

    Example:
        >>> order = Shuffle(starts=(0, 4, 8, 10), window=6, seed=1)
        >>> sorted(order.rows(epoch=0, start=0, stop=10).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    starts: tuple[int, ...]
    window: int
    seed: int
    _epochs: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(f"a shuffle window of {self.window} rows; at least 1 is needed")
        if len(self.starts) < 2 or (np.diff(self.starts) < 1).any():
            raise ConfigError("shuffling needs blocks of at least one row each, in storage order")

    @classmethod
    def of(cls, source: Source, seed: int) -> Shuffle:
        """A source's order: its own blocks, cut to pieces where it can begin to read anywhere at little cost."""
        starts = np.asarray(source.index().starts, np.int64)
        piece = source.shuffle_piece
        if piece:
            inner = [np.arange(start, stop, piece) for start, stop in pairwise(starts)]
            starts = np.concatenate([*inner, starts[-1:]])
        return cls(tuple(np.unique(starts).tolist()), max(1, source.shuffle_window), seed)

    def rows(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The row numbers at positions ``start`` to ``stop`` of an epoch: int64 (stop - start,)."""
        parts = [window.numbers for window in self.windows(epoch, start, stop)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def windows(self, epoch: int, start: int, stop: int) -> Iterator[Window]:
        """What to read for positions ``start`` to ``stop`` of an epoch, window by window."""
        total = self.starts[-1]
        for number in range(start // self.window, -(-stop // self.window)):
            low, high = number * self.window, min(total, (number + 1) * self.window)
            runs = self._runs(epoch, low, high)
            numbers = np.concatenate([np.arange(run.start, run.stop, dtype=np.int64) for run in runs])
            order = np.argsort(Draw(self.seed, epoch, numbers, _STREAM).bits(_ROWS), kind="stable")
            take = order[max(start, low) - low : min(stop, high) - low]
            yield Window(runs, take, numbers[take])

    def _runs(self, epoch: int, low: int, high: int) -> list[Run]:
        """Positions ``low`` to ``high`` of the sequence of permuted blocks."""
        blocks, ends = self._sequence(epoch)
        runs = []
        place = int(np.searchsorted(ends, low, side="right"))
        while low < high:
            block, end = int(blocks[place]), int(ends[place])
            stop = self.starts[block + 1]
            first = stop - (end - low)
            last = stop - max(0, end - high)
            runs.append(Run(first, last, stop))
            low, place = end, place + 1
        return runs

    def _sequence(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in the epoch's order, and the position that follows each; kept for the epochs in hand."""
        found = self._epochs.get(epoch)
        if found is None:
            sizes = np.diff(np.asarray(self.starts, np.int64))
            numbers = np.arange(len(sizes), dtype=np.int64)
            blocks = np.argsort(Draw(self.seed, epoch, numbers, _STREAM).bits(_BLOCKS), kind="stable")
            found = blocks, np.cumsum(sizes[blocks])
            if len(self._epochs) > 1:
                self._epochs.clear()
            self._epochs[epoch] = found
        return found
