"""Which rank reads which rows when: position is derived from the iteration, never stored.

Without shuffling, epoch e gives rank r the r-th of N contiguous ranges of the rows in storage order. Sizes differ by
one at most; the ``extra = rows mod N`` larger ranges go to ranks ``(e * extra + k) mod N`` for ``k < extra``, so over
the epochs every rank gets them in turn and none runs ahead. With shuffling these are ranges of the epoch's own order
(:class:`~cosdask.data.shuffle.Shuffle`), which does not depend on the number of ranks.
"""

from __future__ import annotations

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

    def position(self, rank: int, epoch: int) -> int:
        """How many rows ``rank`` has read when ``epoch`` begins."""
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
