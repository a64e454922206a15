"""A user's own dask dataframe as a source: rows stay on the workers that hold them, the surplus moves between workers.

Before ranks start, each worker writes the partitions it holds as Arrow files beside it. Nothing goes through the
client but counts and paths. Partitions that Dask has yet to compute are computed where they will be read, and keep
their order; of partitions that lie on workers already, each worker reads its own first, and only what is more than its
share goes to workers with less. That order of rows is recorded, so that a run resumes with it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Client, Future, futures_of

from cosdask.data.staged import StagedFile, StagedTable, held_by
from cosdask.errors import DataError, GroupError
from cosdask.parallel.group import Member, ask_scheduler, ask_workers, workers_of
from cosdask.parallel.staging import keep_stage, read_slice, remove_stage, write_part, write_slice
from cosdask.parallel.waiting import SILENCE, results_of_work, wait_for_work

_LOG = logging.getLogger(__name__)
#: Most bytes of rows that one task sends to another worker, and how many such tasks each worker is sent at a time.
_SLICE_BYTES, _UNDER_WAY = 64 << 20, 2
#: How often what was lost with a worker is written again before the loss counts as one of the group.
_ROUNDS = 3
#: Seconds between two signs that the rows are still wanted.
_KEEPING = 60.0

Piece = tuple[int, int, int]
Range = tuple[int, int]


@dataclass(frozen=True)
class Copy:
    """A file of rows on a worker."""

    address: str
    file: StagedFile


def order_pieces(
    held: Sequence[Sequence[int]], loose: Sequence[int], rows: Mapping[int, int], shares: Sequence[int]
) -> list[Piece]:
    """The order in which rows are read: each worker's own first, the surplus where there is too little.

    Args:
        held: for each worker the partitions it holds.
        loose: partitions on none of these workers.
        rows: of each partition.
        shares: rows that each worker shall read; they add up to all rows.

    Returns:
        ``(part, start, stop)``: every row once; the first ``shares[0]`` rows are the first worker's, and so on.

    Example:
        >>> order_pieces([[0, 1], [2]], [], {0: 3, 1: 3, 2: 2}, [4, 4])
        [(0, 0, 3), (1, 0, 1), (2, 0, 2), (1, 1, 3)]
    """
    kept: list[list[Piece]] = []
    surplus: list[Piece] = [(part, 0, rows[part]) for part in loose if rows[part]]
    for parts, share in zip(held, shares, strict=True):
        mine: list[Piece] = []
        for part in parts:
            taken = min(rows[part], share - sum(stop - start for _, start, stop in mine))
            if taken:
                mine.append((part, 0, taken))
            if taken < rows[part]:
                surplus.append((part, taken, rows[part]))
        kept.append(mine)
    surplus.sort(reverse=True)
    for mine, share in zip(kept, shares, strict=True):
        missing = share - sum(stop - start for _, start, stop in mine)
        while missing:
            part, start, stop = surplus.pop()
            taken = min(missing, stop - start)
            mine.append((part, start, start + taken))
            missing -= taken
            if start + taken < stop:
                surplus.append((part, start + taken, stop))
    return [piece for mine in kept for piece in mine]


class StagedFrame:
    """A dask dataframe whose rows are being written beside the workers that read them.

    Args:
        client: of the cluster.
        frame: the dask dataframe.
        members: the workers that will read, in rank order.
        shares: from the number of rows to the rows that each of them reads.
        order: pieces of an earlier run over the same dataframe, to be read in the same order.
        silence: seconds without a heartbeat after which a worker that computes or writes counts as hung.

    Raises:
        DataError: no rows, other rows than ``order`` says, or partitions that cannot be written.
        GroupError: a worker hangs meanwhile, or none is left (``died``).
    """

    def __init__(
        self,
        client: Client,
        frame: Any,
        members: Sequence[Member],
        shares: Callable[[int], list[int]],
        order: Sequence[Piece] | None = None,
        silence: float = SILENCE,
    ) -> None:
        self.client, self._silence = client, silence
        self.stage = uuid.uuid4().hex[:12]
        self.moved = 0
        self._parts = list(frame.to_delayed())
        self._held = _held_futures(self._parts)
        self._pinned = False
        self._closed = threading.Event()
        threading.Thread(target=self._keep, name="keep-rows", daemon=True).start()
        try:
            self._stage(frame, members, shares, order)
        except BaseException:
            self.close()
            raise

    def _stage(
        self,
        frame: Any,
        members: Sequence[Member],
        shares: Callable[[int], list[int]],
        order: Sequence[Piece] | None,
    ) -> None:
        """Write every partition, count its rows, and decide on the order in which they are read."""
        placed = self._placed(frame, members)
        written = self._write({part: placed[part] for part in range(len(self._parts))})
        self._rows = {part: found["rows"] for part, found in written.items()}
        total = sum(self._rows.values())
        if not total:
            raise DataError("the dataframe has no rows, so there is nothing to read.", rows=0)
        self._row_bytes = max(1, sum(found["bytes"] for found in written.values()) // total)
        self._copies: list[Copy] = []
        self._note(written)
        self.table = StagedTable(self._order(members, shares(total), order), [])

    # -- writing -----------------------------------------------------------------------------------------------------

    def _placed(self, frame: Any, members: Sequence[Member]) -> dict[int, str | None]:
        """The worker that writes each partition; None where Dask may choose."""
        count = len(self._parts)
        if all(future is not None for future in self._held):
            futures = [future for future in self._held if future is not None]
            wait_for_work(self.client, futures, self._silence)
            holders = ask_scheduler(self.client, "who_has", keys=[future.key for future in futures])
            return {part: next(iter(holders.get(future.key) or ()), None) for part, future in enumerate(futures)}
        if futures_of(frame):
            # made of what lies on workers: Dask computes it near that
            return dict.fromkeys(range(count))
        self._pinned = True
        return {part: members[part * len(members) // count].address for part in range(count)}

    def _write(self, placed: Mapping[int, str | None]) -> dict[int, dict[str, Any]]:
        """Compute partitions where they are wanted, and write them there."""
        partitions: dict[int, Future] = {}
        for address in set(placed.values()):
            where = _on(address)
            parts = [part for part, at in placed.items() if at == address]
            new = [part for part in parts if self._held[part] is None]
            if new:
                partitions.update(
                    zip(new, self.client.compute([self._parts[part] for part in new], **where), strict=True)
                )
            partitions.update({part: future for part in parts if (future := self._held[part]) is not None})
        tasks = {
            part: self.client.submit(write_part, partitions[part], self.stage, part, pure=False, **_on(address))
            for part, address in placed.items()
        }
        partitions.clear()  # from here on each partition leaves memory as soon as it is written
        return dict(zip(tasks, results_of_work(self.client, list(tasks.values()), self._silence), strict=True))

    def _note(self, written: Mapping[int, dict[str, Any]]) -> None:
        for part, found in written.items():
            if found["rows"] != self._rows[part]:
                raise DataError(
                    f"partition {part} of the dataframe had {self._rows[part]} rows and has {found['rows']} when it is "
                    "computed again: its rows must not depend on chance",
                    part=part,
                )
            self._copies.append(Copy(found["address"], StagedFile(part, 0, found["rows"], found["path"])))

    def _order(self, members: Sequence[Member], shares: list[int], order: Sequence[Piece] | None) -> list[Piece]:
        if order is not None:
            found = {part: sum(stop - start for p, start, stop in order if p == part) for part in self._rows}
            if found != self._rows or {part for part, _, _ in order} - set(self._rows):
                raise DataError("the dataframe has other rows than the run that is to be resumed had.")
            return [(part, start, stop) for part, start, stop in order]
        if self._pinned:
            return [(part, 0, rows) for part, rows in self._rows.items() if rows]
        at = {copy.file.part: copy.address for copy in self._copies}
        held = [[part for part in self._rows if at[part] == member.address] for member in members]
        mine = {part for parts in held for part in parts}
        return order_pieces(held, [part for part in self._rows if part not in mine], self._rows, shares)

    # -- placing -----------------------------------------------------------------------------------------------------

    def place(self, members: Sequence[Member], ranges: Sequence[Sequence[Range]]) -> None:
        """Bring to each member the rows that it reads and does not have: from another worker, or computed again.

        Args:
            members: in rank order.
            ranges: for each of them the ranges of rows, in reading order.

        Raises:
            GroupError: with ``died``, where a member is lost meanwhile.
            DataError: rows that cannot be computed again.
        """
        for _ in range(_ROUNDS):
            there = workers_of(self.client)
            lost = next((member for member in members if not member.is_among(there)), None)
            if lost is not None:
                raise GroupError(f"worker {lost.worker} at {lost.host} is gone.", died=True, host=lost.host)
            self._copies = [copy for copy in self._copies if _is_there(copy, there)]
            # a client that stood still for long was taken for dead
            kept = ask_workers(self.client, sorted({copy.address for copy in self._copies}), keep_stage, self.stage)
            self._copies = [copy for copy in self._copies if kept.get(copy.address) is not False]
            wanted = [
                (member.address, piece)
                for member, own in zip(members, ranges, strict=True)
                for piece in self._missing(member.address, own)
            ]
            if not wanted:
                self.table = StagedTable(self.table.pieces, [copy.file for copy in self._copies])
                return
            self._fetch(wanted)
        raise GroupError("workers went away while the dataframe's rows were brought to them.", died=True)

    def _missing(self, address: str, ranges: Sequence[Range]) -> list[Piece]:
        """The rows of some ranges that a worker does not have, by partition."""
        own = [copy.file for copy in self._copies if copy.address == address]
        found: list[Piece] = []
        position = 0
        for part, start, stop in self.table.pieces:
            for low, high in _joined(ranges):
                first = start + max(low - position, 0)
                last = start + min(high - position, stop - start)
                if first < last and not held_by(own, part, first, last):
                    found.append((part, first, last))
            position += stop - start
        return found

    def _fetch(self, wanted: Sequence[tuple[str, Piece]]) -> None:
        """Move what another worker has, in slices; compute what nobody has any more."""
        again: dict[int, str | None] = {}
        moves: list[tuple[int, Future]] = []
        sent: dict[str, list[Future]] = {}
        for address, piece in wanted:
            slices, part, earlier = self._slices(piece), piece[0], sent.setdefault(address, [])
            if slices is None:
                again[part] = address
                continue
            for source, first, last in slices:
                at = (first - source.file.start, last - source.file.start)
                # a slice is read when one before it is written: no more of them are in memory at a time
                after = earlier[-_UNDER_WAY] if len(earlier) >= _UNDER_WAY else None
                path = source.file.path
                rows = self.client.submit(read_slice, path, *at, after, pure=False, **_on(source.address))
                written = self.client.submit(write_slice, rows, self.stage, part, first, pure=False, **_on(address))
                earlier.append(written)
                moves.append((part, written))
        done = results_of_work(self.client, [future for _, future in moves], self._silence)
        for (part, _), found in zip(moves, done, strict=True):
            if found is not None:
                self.moved += found["stop"] - found["start"]
                file = StagedFile(part, found["start"], found["stop"], found["path"])
                self._copies.append(Copy(found["address"], file))
        if again:
            _LOG.info("%d partition(s) of the dataframe were lost and are computed again", len(again))
            self._note(self._write(again))

    def _slices(self, piece: Piece) -> list[tuple[Copy, int, int]] | None:
        """Rows that are to be moved, in ranges of one file each that are not too large; None where some are lost."""
        part, first, stop = piece
        size, found = max(1, _SLICE_BYTES // self._row_bytes), []
        while first < stop:
            copies = [copy for copy in self._copies if copy.file.holds(part, first, first + 1)]
            if not copies:
                return None
            source = max(copies, key=lambda copy: copy.file.stop)
            last = min(stop, first + size, source.file.stop)
            found.append((source, first, last))
            first = last
        return found

    def _keep(self) -> None:
        """Tell the workers, again and again, that the rows are still wanted."""
        while not self._closed.wait(_KEEPING):
            try:
                ask_workers(self.client, list(workers_of(self.client)), keep_stage, self.stage)
            except Exception:
                # whatever it was, such as no scheduler: if this thread ended, rows that are being read would go
                _LOG.info("the workers could not be told that their rows are wanted", exc_info=True)

    def close(self) -> None:
        """Remove the files from the workers that are still there."""
        self._closed.set()
        with contextlib.suppress(GroupError):  # no scheduler, no way to any worker
            ask_workers(self.client, list(workers_of(self.client)), remove_stage, self.stage)


def _on(address: str | None) -> dict[str, Any]:
    """Where a task goes: on another worker where this one is gone, which the task's answer shows."""
    return {} if address is None else {"workers": [address], "allow_other_workers": True}


def _held_futures(parts: Sequence[Any]) -> list[Future | None]:
    """For each partition the future that holds it already, if there is one."""
    found: list[Future | None] = []
    for part in parts:
        graph = dict(part.dask)
        value = graph.get(part.key)
        while (target := getattr(value, "target", None)) is not None:
            value = graph.get(target)
        found.append(value if isinstance(value, Future) else None)
    return found


def _is_there(copy: Copy, workers: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a file's worker lives; one that came after it at its address has another folder."""
    found = workers.get(copy.address)
    return found is not None and Path(copy.file.path).is_relative_to(found["local_directory"])


def _joined(ranges: Sequence[Range]) -> list[Range]:
    """Ranges in order, those that touch or overlap made one."""
    found: list[Range] = []
    for low, high in sorted(ranges):
        if low < high:
            if found and low <= found[-1][1]:
                found[-1] = (found[-1][0], max(high, found[-1][1]))
            else:
                found.append((low, high))
    return found
