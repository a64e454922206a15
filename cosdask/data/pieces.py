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

if TYPE_CHECKING:
    from cosdask.data.base import Source


@dataclass(frozen=True)
class Piece:
    """Rows of one epoch, in the order in which they are wanted."""

    rows: Rows
    draw: Draw


def cut(
    source: Source, segments: Iterable[Segment], batch_size: int, seed: int, shuffle: Shuffle | None = None
) -> Iterator[list[Piece]]:
    """Batches of ``batch_size`` rows from segments; the last one is short if the segments end.

    Args:
        source: the rows.
        segments: which of them, as positions in each epoch's order.
        batch_size: rows of a batch.
        seed: of random crops and mirrors.
        shuffle: the order of each epoch; None for storage order.

    Raises:
        DataError: a row that cannot be read, or fewer rows than were counted.
    """
    pieces: list[Piece] = []
    have = 0
    reader = _Reader(source, batch_size)
    for segment in segments:
        chunks = reader.ordered(segment, batch_size - have) if shuffle is None else reader.shuffled(segment, shuffle)
        for numbers, rows in chunks:
            taken = 0
            while taken < rows.num_rows:
                part = rows.slice(taken, batch_size - have)
                own = numbers[taken : taken + part.num_rows]
                pieces.append(Piece(part, Draw(seed, segment.epoch, own)))
                taken += part.num_rows
                have += part.num_rows
                if have == batch_size:
                    yield pieces
                    pieces, have = [], 0
    if pieces:
        yield pieces


class _Reader:
    """Reads segments of a source in chunks of ``size`` rows at most, with each row's number."""

    def __init__(self, source: Source, size: int) -> None:
        self._source, self._size = source, size
        # A block that was not read to its end: the next row, and the chunks that follow.
        self._open: tuple[int, Iterator[Rows]] | None = None
        self._rest: Rows | None = None

    def ordered(self, segment: Segment, lead: int) -> Iterator[tuple[np.ndarray, Rows]]:
        """A segment in storage order; the first chunk fills the open batch, so the others fit whole."""
        middle = min(segment.stop, segment.start + lead) if lead < self._size else segment.start
        for first, last in ((segment.start, middle), (middle, segment.stop)):
            position = first
            for rows in self._source.stream(first, last, self._size):
                yield np.arange(position, position + rows.num_rows, dtype=np.int64), rows
                position += rows.num_rows
            if position != last:
                raise self._source.changed(segment.rows, position - segment.start)

    def shuffled(self, segment: Segment, shuffle: Shuffle) -> Iterator[tuple[np.ndarray, Rows]]:
        """A segment in its epoch's order, window by window."""
        for window in shuffle.windows(segment.epoch, segment.start, segment.stop):
            parts = [part for run in window.runs for part in self._run(run)]
            rows = gather(parts, window.take)
            for start in range(0, rows.num_rows, self._size):
                yield window.numbers[start : start + self._size], rows.slice(start, self._size)

    def _run(self, run: Run) -> Iterator[Rows]:
        """The rows of a run; a block that the last window left off is read on, not begun again."""
        if self._open is None or self._open[0] != run.start:
            self._open = run.start, iter(self._source.stream(run.start, run.end, self._size))
            self._rest = None
        position, chunks = self._open
        while position < run.stop:
            rows = self._rest if self._rest is not None else next(chunks, None)
            if rows is None:
                raise self._source.changed(run.end - run.start, position - run.start)
            part = rows.slice(0, run.stop - position)
            more = rows.num_rows - part.num_rows
            self._rest = rows.slice(part.num_rows, more) if more else None
            position += part.num_rows
            yield part
        self._open = (position, chunks) if position < run.end else None


def decode_pieces(source: Source, pieces: list[Piece]) -> dict[str, np.ndarray]:
    """The raw arrays of a batch."""
    parts = [source.decode(piece.rows, piece.draw) for piece in pieces]
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def piece_ids(source: Source, pieces: list[Piece]) -> list[str]:
    """The SampleIDs of a batch."""
    return [name for piece in pieces for name in source.ids(piece.rows)]
