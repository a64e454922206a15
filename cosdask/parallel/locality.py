"""Which worker takes which rank: the one that has most of the rank's rows on its own host.

Ranks decide what is computed, workers only where: any assignment gives the same numbers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from distributed import Client

from cosdask.data import Extent, RowPlan, Source
from cosdask.errors import CosdaskError
from cosdask.parallel.group import Member, ask_workers
from cosdask.storage.places import BytePlace, byte_places

#: questions to the NameNode that run side by side, and files that are asked about
_REQUESTS, _FILES = 8, 5000

#: rows ``start`` to ``stop``, their bytes, and the hosts that have them
Piece = tuple[int, int, float, frozenset[str]]


@dataclass(frozen=True)
class Locality:
    """Where the rows of a training lie.

    Attributes:
        pieces: rows with their hosts, in storage order; none where the rows have no places, or no order.
        problem: why nothing is known of rows that lie in HDFS; "" otherwise.
    """

    pieces: Sequence[Piece] = ()
    problem: str = ""

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Locality:
        """What :func:`places_of` gave."""
        return cls([(a, b, size, frozenset(hosts)) for a, b, size, hosts in found["pieces"]], found["problem"])

    def nearness(self, ranks: int, members: int) -> list[dict[str, float]]:
        """For each member's ranks, in their order, the bytes of their rows by host, under ``""`` all of them."""
        if not self.pieces:
            return [{} for _ in range(members)]
        plan = RowPlan(self.pieces[-1][1], ranks)
        found = []
        for member in range(members):
            own = range(member * ranks // members, (member + 1) * ranks // members)
            segments = [plan.range(rank, epoch=0) for rank in own]
            found.append(self._bytes_of(segments[0].start, segments[-1].stop))
        return found

    def _bytes_of(self, start: int, stop: int) -> dict[str, float]:
        totals = {"": 0.0}
        for first, last, size, hosts in self.pieces:
            rows = min(stop, last) - max(start, first)
            if rows > 0:
                part = size * rows / (last - first)
                for host in ("", *hosts):
                    totals[host] = totals.get(host, 0.0) + part
        return totals


@dataclass(frozen=True)
class Arrangement:
    """Members in rank order.

    Attributes:
        members: the workers.
        share: of the rows' bytes, that which lies on the host of its reader; None where it is not known.
        problem: why not, where the rows lie in HDFS.
    """

    members: list[Member] = field(default_factory=list)
    share: float | None = None
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For a job."""
        return {"share": self.share, "problem": self.problem}


def arranged(
    client: Client, members: list[Member], locality: Locality, devices: int, threads: int | None
) -> Arrangement:
    """Give each member's ranks to the worker that is nearest to their rows.

    Workers with different numbers of threads stay as they are: a rank's threads decide its rounding.

    Args:
        client: connected to the cluster.
        members: the workers, by name.
        locality: of the rows.
        devices: ranks of the plan that each member takes.
        threads: of each rank; None: as many as its worker has.
    """
    if not locality.pieces:
        return Arrangement(members, problem=locality.problem)
    near = locality.nearness(len(members) * devices, len(members))
    told = ask_workers(client, [member.address for member in members], own_names)
    names = [_names(member, told.get(member.address)) for member in members]
    same = threads is not None or len({member.threads for member in members}) == 1
    order = assign(near, names) if same else list(range(len(members)))
    local = sum(_most(near[rank], names[worker]) for rank, worker in enumerate(order))
    whole = sum(found[""] for found in near)
    return Arrangement([members[worker] for worker in order], local / whole if whole else None)


def assign(near: Sequence[Mapping[str, float]], names: Sequence[Iterable[str]]) -> list[int]:
    """For each rank the worker that takes it: the nearest pair first, equals by rank and by the workers' order.

    Args:
        near: for each rank the bytes of its rows by host.
        names: for each worker the names of its host.

    Example:
        >>> assign([{"b": 9.0}, {"a": 5.0, "b": 9.0}], [["a"], ["b"]])
        [1, 0]
        >>> assign([{}, {}], [["a"], ["b"]])
        [0, 1]
    """
    pairs = sorted(
        (-_most(found, hosts), rank, worker) for rank, found in enumerate(near) for worker, hosts in enumerate(names)
    )
    order: dict[int, int] = {}
    taken: set[int] = set()
    for _, rank, worker in pairs:
        if rank not in order and worker not in taken:
            order[rank] = worker
            taken.add(worker)
    return [order[rank] for rank in range(len(near))]


def _most(found: Mapping[str, float], names: Iterable[str]) -> float:
    """Bytes on a host; it may be known by its name and by its address."""
    return max((found.get(name, 0.0) for name in names), default=0.0)


def _names(member: Member, told: Any) -> list[str]:
    return [member.host, *(told if isinstance(told, list) else [])]


def own_names(dask_worker: Any = None) -> list[str]:
    """On a worker: what its host is called, also by YARN."""
    return [name for name in (os.environ.get("NM_HOST", ""), socket.gethostname()) if name]


def places_of(source: Source) -> dict[str, Any]:
    """On a worker: where a source's rows lie, as JSON values; nothing where every epoch has another order."""
    if source.shuffled:
        return {"pieces": [], "problem": ""}
    extents = source.extents()
    urls = list(dict.fromkeys(extent.url for extent in extents))[:_FILES]
    try:
        places = _asked(urls)
    except (CosdaskError, OSError) as error:
        return {"pieces": [], "problem": str(error).splitlines()[0]}
    pieces = pieces_of(extents, places)
    known = any(hosts for _, _, _, hosts in pieces)
    return {"pieces": [(*piece[:3], sorted(piece[3])) for piece in pieces] if known else [], "problem": ""}


def _asked(urls: Sequence[str]) -> dict[str, list[BytePlace]]:
    """The places of files; where the first cannot be asked about, no other is."""
    places = {url: byte_places(url) for url in urls[:1]}
    pool = ThreadPoolExecutor(_REQUESTS)
    try:
        places.update(zip(urls[1:], pool.map(byte_places, urls[1:]), strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    return places


def pieces_of(extents: Sequence[Extent], places: Mapping[str, Sequence[BytePlace]]) -> list[Piece]:
    """Rows cut where their files' blocks are; neighbours on the same hosts are one piece.

    Rows of a file are taken to be of one size.

    Example:
        >>> blocks = [BytePlace(0, 100, frozenset("a")), BytePlace(100, 150, frozenset("b"))]
        >>> [(start, stop, size) for start, stop, size, _ in pieces_of([Extent(0, 30, "f")], {"f": blocks})]
        [(0, 20, 100.0), (20, 30, 50.0)]
    """
    found: list[Piece] = []
    for extent in extents:
        blocks = places.get(extent.url, [])
        last = extent.last if extent.last is not None else max((block.stop for block in blocks), default=0)
        span, rows = max(1, last - extent.first), extent.stop - extent.start
        for block in blocks:
            begin, end = max(block.start, extent.first), min(block.stop, last)
            if begin >= end:
                continue
            first = extent.start + round(rows * (begin - extent.first) / span)
            stop = extent.start + round(rows * (end - extent.first) / span)
            _add(found, (first, stop, float(end - begin), block.hosts))
        if not blocks:
            _add(found, (extent.start, extent.stop, 0.0, frozenset()))
    return found


def _add(found: list[Piece], piece: Piece) -> None:
    start, stop, size, hosts = piece
    if found and found[-1][3] == hosts and found[-1][1] == start:
        found[-1] = (found[-1][0], stop, found[-1][2] + size, hosts)
    elif stop > start:
        found.append(piece)
