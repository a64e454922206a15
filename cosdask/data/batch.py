"""From the pieces of a batch to its arrays; what to do about rows that cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cosdask.data.draw import Draw
from cosdask.data.pieces import Hole, Piece
from cosdask.data.skips import Skips, bad_row
from cosdask.errors import CosdaskError, DataError

if TYPE_CHECKING:
    from cosdask.data.base import Source

#: Rows tried in place of a batch without a single good row.
_DRAWS = 1000
#: Sets the draw of such rows apart from other random numbers.
_STREAM = -2


@dataclass(frozen=True)
class Batch:
    """Raw arrays of a batch by name, and the SampleIDs where they were asked for."""

    ids: list[str]
    arrays: dict[str, np.ndarray]

    @property
    def rows(self) -> int:
        """How many rows these are."""
        return len(next(iter(self.arrays.values()))) if self.arrays else 0


def decode_batch(source: Source, pieces: Sequence[Piece | Hole], skips: Skips, with_ids: bool = False) -> Batch:
    """The batch of some pieces, without the rows that cannot be read where the source skips them.

    Raises:
        DataError: a row that cannot be read, or another number of rows than went in.
    """
    parts: list[Batch] = []
    bad = 0
    for piece in pieces:
        if isinstance(piece, Hole):
            skips.add(piece.error)
            bad += 1
            continue
        decoded = list(_decoded(source, piece, skips, with_ids))
        bad += len(piece.draw.rows) - sum(part.rows for part in decoded)
        parts += decoded
    batch = _joined(parts)
    wanted = sum(len(piece.draw.rows) for piece in pieces)
    wrong = {name: len(array) for name, array in batch.arrays.items() if len(array) != wanted - bad}
    if wrong:
        raise DataError(f"{source.where}: {wanted} rows went into a batch, {bad} of them bad; out came {wrong}")
    return batch


def _decoded(source: Source, piece: Piece, skips: Skips, with_ids: bool) -> Iterator[Batch]:
    """A piece at once; where a row of it is bad and may be skipped, each good row by itself."""
    try:
        yield Batch(source.ids(piece.rows) if with_ids else [], source.decode(piece.rows, piece.draw))
        return
    except CosdaskError as error:
        if bad_row(error) is None:
            raise
        if not source.skipping:
            raise source.placed(error) from error
        if len(piece.draw.rows) == 1:
            skips.add(source.placed(error))
            return
    draw = piece.draw
    for i in range(len(draw.rows)):
        one = Piece(piece.rows.slice(i, 1), Draw(draw.seed, draw.epoch, draw.rows[i : i + 1], draw.stream))
        yield from _decoded(source, one, skips, with_ids)


def _joined(parts: list[Batch]) -> Batch:
    if not parts:
        return Batch([], {})
    if len(parts) == 1:
        return parts[0]
    names = parts[0].arrays
    return Batch(
        [name for part in parts for name in part.ids],
        {name: np.concatenate([part.arrays[name] for part in parts]) for name in names},
    )


def filled(source: Source, batch: Batch, pieces: Sequence[Piece | Hole], skips: Skips) -> Batch:
    """A whole batch of what :func:`decode_batch` made of the pieces: its good rows again, in turn, for the bad ones.

    So which rows stand in is a function of the batch alone, and no other batch moves. Where no row of a batch is good,
    rows drawn by seed, epoch and row stand in.

    Raises:
        DataError: no good row was found among those drawn.
    """
    wanted = sum(len(piece.draw.rows) for piece in pieces)
    if batch.rows == wanted:
        return batch
    if not batch.rows:
        batch = _joined(list(_drawn(source, pieces[0].draw, wanted, skips)))
    take = np.arange(wanted) % batch.rows
    return Batch(batch.ids, {name: array[take] for name, array in batch.arrays.items()})


def _drawn(source: Source, place: Draw, wanted: int, skips: Skips) -> Iterator[Batch]:
    """Good rows from anywhere, at most ``wanted``."""
    tries = np.arange(_DRAWS, dtype=np.int64)
    first = int(place.rows[0])
    numbers = Draw(place.seed ^ first, place.epoch, tries, _STREAM).below(source.rows, 0)
    found, last = 0, None
    for number in numbers.tolist():
        draw = Draw(place.seed, place.epoch, np.array([number], np.int64))
        try:
            for rows in source.stream(number, number + 1, 1):
                yield Batch([], source.decode(rows, draw))
                found += 1
        except CosdaskError as error:
            if bad_row(error) is None:
                raise
            skips.add(source.placed(error))
            last = error
        if found == wanted:
            return
    if not found:
        raise DataError(f"{source.where}: none of {_DRAWS} rows drawn can be read; the last one: {last}") from last


def full_batches(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same rows in batches of ``size``, the last one short: closes the gaps that rows left out have made."""
    waiting: list[Batch] = []
    have = 0
    for batch in batches:
        if batch.rows == size and not waiting:
            yield batch
            continue
        if batch.rows:
            waiting.append(batch)
            have += batch.rows
        if have >= size:
            whole = _joined(waiting)
            yield Batch(whole.ids[:size], {name: array[:size] for name, array in whole.arrays.items()})
            have -= size
            rest = Batch(whole.ids[size:], {name: array[size:] for name, array in whole.arrays.items()})
            waiting = [rest] if have else []
    if have:
        yield _joined(waiting)
