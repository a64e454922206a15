"""Cutting a stream of rows into batches: each batch is a few pieces, for it may straddle epochs and chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cosdask.data.draw import Draw
from cosdask.data.plan import Segment
from cosdask.data.rows import Rows, gather
from cosdask.data.shuffle import Run, Shuffle
from cosdask.data.skips import bad_row
from cosdask.errors import CosdaskError

if TYPE_CHECKING:
    from cosdask.data.base import Source


@dataclass(frozen=True)
class Piece:
    """Rows of one epoch, in the order in which they are wanted."""

    rows: Rows
    draw: Draw


@dataclass(frozen=True)
class Hole:
    """The place of a row that could not even be read."""

    draw: Draw
    error: CosdaskError


def cut(
    source: Source, segments: Iterable[Segment], batch_size: int, seed: int, shuffle: Shuffle | None = None
) -> Iterator[list[Piece | Hole]]:
    """Batches of ``batch_size`` rows from segments; the last one is short if the segments end.

    Args:
        source: the rows.
        segments: which of them, as positions in each epoch's order.
        batch_size: rows of a batch.
        seed: of random crops and mirrors.
        shuffle: the order of each epoch; None for storage order.

    Raises:
        DataError: a row that cannot be read (where the source does not skip them), or fewer rows than were counted.
    """
    pieces: list[Piece | Hole] = []
    have = 0
    reader = _Reader(source, batch_size)
    for segment in segments:
        chunks = reader.ordered(segment, batch_size - have) if shuffle is None else reader.shuffled(segment, shuffle)
        for numbers, rows in chunks:
            taken = 0
            while taken < len(numbers):
                own = numbers[taken : taken + batch_size - have]
                draw = Draw(seed, segment.epoch, own)
                if isinstance(rows, CosdaskError):
                    pieces.append(Hole(draw, rows))
                else:
                    pieces.append(Piece(rows.slice(taken, len(own)), draw))
                taken += len(own)
                have += len(own)
                if have == batch_size:
                    yield pieces
                    pieces, have = [], 0
    if pieces:
        yield pieces


#: Rows with their numbers, or the number of a row that cannot be read and why.
_Chunk = tuple[np.ndarray, Rows | CosdaskError]


class _Reader:
    """Reads segments of a source in chunks of ``size`` rows at most, with each row's number."""

    def __init__(self, source: Source, size: int) -> None:
        self._source, self._size = source, size
        # A block that was not read to its end: the next row, and the chunks that follow.
        self._open: tuple[int, Iterator[_Chunk]] | None = None
        self._rest: Rows | None = None

    def ordered(self, segment: Segment, lead: int) -> Iterator[_Chunk]:
        """A segment in storage order; the first chunk fills the open batch, so the others fit whole."""
        middle = min(segment.stop, segment.start + lead) if lead < self._size else segment.start
        for first, last in ((segment.start, middle), (middle, segment.stop)):
            position = first
            for numbers, rows in self._chunks(first, last):
                yield numbers, rows
                position += len(numbers)
            if position != last:
                raise self._source.changed(segment.rows, position - segment.start)

    def _chunks(self, start: int, stop: int) -> Iterator[_Chunk]:
        """Rows ``start`` to ``stop``; where the source skips, a row that cannot be read comes as its error."""
        while start < stop:
            try:
                for rows in self._stream(start, stop):
                    yield np.arange(start, start + rows.num_rows, dtype=np.int64), rows
                    start += rows.num_rows
                return
            except CosdaskError as error:
                row = bad_row(error)
                if row is None:
                    raise
                bad = self._source.placed(error)
                if not self._source.skipping or not start <= row < stop:
                    raise bad from error
            yield from self._chunks(start, row)
            yield np.array([row], np.int64), bad
            start = row + 1

    def _stream(self, start: int, stop: int) -> Iterator[Rows]:
        kept = self._source.kept
        if kept is not None:
            return kept.read(start, stop, self._size)
        return self._source.stream(start, stop, self._size)

    def shuffled(self, segment: Segment, shuffle: Shuffle) -> Iterator[_Chunk]:
        """A segment in its epoch's order, window by window."""
        for window in shuffle.windows(segment.epoch, segment.start, segment.stop):
            chunks = [chunk for run in window.runs for chunk in self._run(run)]
            errors = {int(own[0]): rows for own, rows in chunks if isinstance(rows, CosdaskError)}
            good = [rows for _, rows in chunks if not isinstance(rows, CosdaskError)]
            kept, take = _without_holes(chunks, window.take)
            rows = gather(good, take) if len(take) else None
            start = first = 0
            for hole in [*np.flatnonzero(~kept).tolist(), len(kept)]:
                for place in range(start, hole, self._size):
                    own = window.numbers[place : min(hole, place + self._size)]
                    assert rows is not None
                    yield own, rows.slice(first, len(own))
                    first += len(own)
                if hole < len(kept):
                    yield window.numbers[hole : hole + 1], errors[int(window.numbers[hole])]
                start = hole + 1

    def _run(self, run: Run) -> Iterator[_Chunk]:
        """The rows of a run; a block that the last window left off is read on, not begun again."""
        if self._open is None or self._open[0] != run.start:
            self._open = run.start, self._chunks(run.start, run.end)
            self._rest = None
        position, chunks = self._open
        while position < run.stop:
            rows = self._rest
            if rows is None:
                found = next(chunks, None)
                if found is None:
                    raise self._source.changed(run.end - run.start, position - run.start)
                if isinstance(found[1], CosdaskError):
                    position += 1
                    yield found
                    continue
                rows = found[1]
            part = rows.slice(0, run.stop - position)
            more = rows.num_rows - part.num_rows
            self._rest = rows.slice(part.num_rows, more) if more else None
            yield np.arange(position, position + part.num_rows, dtype=np.int64), part
            position += part.num_rows
        self._open = (position, chunks) if position < run.end else None


def _without_holes(chunks: list[_Chunk], take: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the rows to take are good, and the places of those, counted over the good rows only."""
    good = np.concatenate([np.full(len(own), not isinstance(rows, CosdaskError)) for own, rows in chunks])
    kept = good[take]
    return kept, (np.cumsum(good) - 1)[take[kept]]
