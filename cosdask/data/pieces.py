"""Cutting a stream of rows into batches: each batch is a few pieces, for it may straddle epochs and chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cosdask.data.draw import Draw
from cosdask.data.plan import Segment

if TYPE_CHECKING:
    from cosdask.data.base import Source


@dataclass(frozen=True)
class Piece:
    """Rows of one epoch that follow each other."""

    rows: pa.RecordBatch
    draw: Draw


def cut(source: Source, segments: Iterable[Segment], batch_size: int, seed: int) -> Iterator[list[Piece]]:
    """Batches of ``batch_size`` rows from segments; the last one is short if the segments end.

    Raises:
        DataError: a row that cannot be read, or fewer rows than were counted.
    """
    pieces: list[Piece] = []
    have = 0
    for segment in segments:
        for start, rows in _chunks(source, segment, batch_size - have, batch_size):
            taken = 0
            while taken < rows.num_rows:
                part = rows.slice(taken, batch_size - have)
                first = start + taken
                pieces.append(Piece(part, Draw.of(seed, segment.epoch, first, first + part.num_rows)))
                taken += part.num_rows
                have += part.num_rows
                if have == batch_size:
                    yield pieces
                    pieces, have = [], 0
    if pieces:
        yield pieces


def _chunks(source: Source, segment: Segment, lead: int, size: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """A segment's rows with their first row's number; the first chunk fills the open batch, so the others fit whole."""
    start = segment.start
    middle = min(segment.stop, start + lead) if lead < size else start
    for first, last in ((start, middle), (middle, segment.stop)):
        if first == last:
            continue
        position = first
        for rows in source.read(first, last, size):
            yield position, rows
            position += rows.num_rows
        if position != last:
            raise source.changed(segment.rows, position - segment.start)


def decode_pieces(source: Source, pieces: list[Piece]) -> dict[str, np.ndarray]:
    """The raw arrays of a batch."""
    parts = [source.decode(piece.rows, piece.draw) for piece in pieces]
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def piece_ids(source: Source, pieces: list[Piece]) -> list[str]:
    """The SampleIDs of a batch."""
    return [name for piece in pieces for name in source.ids(piece.rows)]
