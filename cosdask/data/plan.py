"""Which rank reads which rows when: position is derived from the iteration, never stored.

Without shuffling, epoch e gives rank r the r-th of N contiguous ranges of the rows in storage order. Sizes differ by
one at most; the ``extra = rows mod N`` larger ranges go to ranks ``(e * extra + k) mod N`` for ``k < extra``, so over
the epochs every rank gets them in turn and none runs ahead. With shuffling these are ranges of the epoch's own order
(:class:`~cosdask.data.shuffle.Shuffle`), which does not depend on the number of ranks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from cosdask.data.shuffle import Shuffle
from cosdask.errors import ConfigError, DataError


@dataclass(frozen=True)
class Segment:
    """Positions ``start`` to ``stop`` (excluded) of one epoch; without shuffling they are the rows' own numbers."""

    epoch: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows these are."""
        return self.stop - self.start


@dataclass(frozen=True)
class RowPlan:
    """The order in which ranks read rows, for ever.

    Args:
        rows: rows of the source.
        ranks: how many ranks share them.
        shuffle: the order of each epoch; None for storage order.
        left: what ranks of another number left unread of the epochs that they began; it is read first.
        first_epoch: the epoch that follows.
        origin: the position in a rank's stream at which this plan begins; see :meth:`after`.

    Raises:
        DataError: no rows.
        ConfigError: no ranks, or a shuffle of another number of rows.

    Example:
        >>> plan = RowPlan(rows=5, ranks=2)
        >>> plan.segments(rank=0, first=0, count=6)
        [Segment(epoch=0, start=0, stop=3), Segment(epoch=1, start=0, stop=2), Segment(epoch=2, start=0, stop=1)]
    """

    rows: int
    ranks: int
    shuffle: Shuffle | None = None
    left: tuple[Segment, ...] = ()
    first_epoch: int = 0
    origin: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise DataError("the source has no rows, so there is nothing to read", rows=self.rows)
        if self.ranks < 1:
            raise ConfigError(f"{self.ranks} ranks asked for; at least 1 is needed", ranks=self.ranks)
        if self.shuffle is not None and self.shuffle.starts[-1] != self.rows:
            raise ConfigError(f"an order of {self.shuffle.starts[-1]} rows for a plan of {self.rows}")

    def range(self, rank: int, epoch: int) -> Segment:
        """The positions that ``rank`` reads in ``epoch`` (none for some epochs when there are more ranks than rows)."""
        base, extra = divmod(self.rows, self.ranks)
        first = epoch * extra % self.ranks
        end = first + extra
        # The larger ranges belong to ranks first..end, wrapping round; count those before this rank, and this one.
        before = _overlap(first, min(end, self.ranks), rank) + _overlap(0, max(end - self.ranks, 0), rank)
        own = (rank - first) % self.ranks < extra
        start = rank * base + before
        return Segment(epoch, start, start + base + own)

    def after(self, position: int, ranks: int, origin: int) -> RowPlan:
        """The plan of another number of ranks that take over.

        What is left of the epochs that were begun is divided among them evenly, so that every row still counts once in
        each epoch; whole epochs follow.

        Args:
            position: rows that each rank of this plan has read.
            ranks: how many go on.
            origin: the position that their streams then count from: their rows an iteration times the iteration.

        Example:
            >>> plan = RowPlan(rows=12, ranks=3).after(position=2, ranks=2, origin=2)
            >>> plan.segments(rank=0, first=2, count=4)
            [Segment(epoch=0, start=2, stop=4), Segment(epoch=0, start=6, stop=7), Segment(epoch=1, start=0, stop=1)]
        """
        begun = self.first_epoch - 1
        if position > self.origin:
            begun = max(begun, *(self._epoch_of(rank, position - 1) for rank in range(self.ranks)))
        left: list[Segment] = []
        for rank in range(self.ranks):
            left += itertools.takewhile(lambda segment: segment.epoch <= begun, self.stream(rank, position))
        whole = tuple(sorted(left, key=lambda segment: (segment.epoch, segment.start)))
        return RowPlan(self.rows, ranks, self.shuffle, whole, begun + 1, origin)

    def _epoch_of(self, rank: int, position: int) -> int:
        return next(self.stream(rank, position)).epoch

    def _left(self, rank: int) -> list[Segment]:
        """A rank's part of what was left: contiguous, and of a size that differs by one at most."""
        rows = sum(segment.rows for segment in self.left)
        skip, found = rank * rows // self.ranks, []
        count = (rank + 1) * rows // self.ranks - skip
        for segment in self.left:
            start = segment.start + min(skip, segment.rows)
            stop = min(segment.stop, start + count)
            skip -= start - segment.start
            count -= stop - start
            if stop > start:
                found.append(Segment(segment.epoch, start, stop))
        return found

    def position(self, rank: int, epoch: int) -> int:
        """How many rows ``rank`` has read when ``epoch`` begins, were there no other epochs before."""
        base, extra = divmod(self.rows, self.ranks)
        # Larger ranges are dealt out one after the other: the i-th of all goes to rank i mod N.
        return epoch * base + (epoch * extra + self.ranks - 1 - rank) // self.ranks

    def epoch_at(self, rank: int, position: int) -> int:
        """The epoch that the row at ``position`` of a rank's stream belongs to."""
        low = max(0, (position - 1) * self.ranks // self.rows - 1)
        high = (position + 2) * self.ranks // self.rows + 2
        while high - low > 1:
            middle = (low + high) // 2
            if self.position(rank, middle) <= position:
                low = middle
            else:
                high = middle
        return low

    def stream(self, rank: int, first: int = 0) -> Iterator[Segment]:
        """The endless stream of a rank from position ``first`` on, in the largest pieces."""
        if not 0 <= rank < self.ranks:
            raise ConfigError(f"rank {rank} of {self.ranks}: ranks are 0 to {self.ranks - 1}", rank=rank)
        if first < self.origin:
            raise ConfigError(f"position {first} lies before the plan's begin at {self.origin}", rank=rank)
        first -= self.origin
        for segment in self._left(rank):
            if segment.rows > first:
                yield Segment(segment.epoch, segment.start + first, segment.stop)
            first = max(0, first - segment.rows)
        # counted as if the epochs before had been read by these ranks
        first += self.position(rank, self.first_epoch)
        epoch = self.epoch_at(rank, first)
        skip = first - self.position(rank, epoch)
        while True:
            whole = self.range(rank, epoch)
            if whole.rows > skip:
                yield Segment(epoch, whole.start + skip, whole.stop)
            skip = 0
            epoch += 1

    def segments(self, rank: int, first: int, count: int) -> list[Segment]:
        """Positions ``first`` to ``first + count`` of the endless stream of rows that ``rank`` reads.

        The work grows with the epochs that ``count`` spans, not with ``first``.
        """
        found: list[Segment] = []
        if count <= 0:
            return found
        for segment in self.stream(rank, first):
            taken = Segment(segment.epoch, segment.start, min(segment.stop, segment.start + count))
            found.append(taken)
            count -= taken.rows
            if count == 0:
                break
        return found


def _overlap(start: int, stop: int, limit: int) -> int:
    """How many of ``start`` to ``stop`` are below ``limit``."""
    return max(0, min(stop, limit) - start)


def window(first: int, count: int, rows: int, ranks: int, rank: int) -> list[Segment]:
    """A rank's part of ``count`` rows that follow position ``first`` in the endless repetition of ``rows`` rows.

    The positions are cut in ``ranks`` contiguous parts whose sizes differ by one at most. Used for validation, which
    goes on where it last stopped.

    Raises:
        DataError: no rows.

    Example:
        >>> window(first=8, count=5, rows=10, ranks=2, rank=1)
        [Segment(epoch=1, start=0, stop=3)]
    """
    if rows < 1:
        raise DataError("the source has no rows, so there is nothing to read", rows=rows)
    position, stop = first + rank * count // ranks, first + (rank + 1) * count // ranks
    found: list[Segment] = []
    while position < stop:
        epoch, start = divmod(position, rows)
        end = min(rows, start + stop - position)
        found.append(Segment(epoch, start, end))
        position += end - start
    return found
