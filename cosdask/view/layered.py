"""Where the boxes of a directed graph go: rows by depth, few crossings, short arrows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Place = tuple[float, float]
_SWEEPS = 12


@dataclass(frozen=True)
class Layout:
    """Where things go, in the unit of the sizes given: (across, along), with (0, 0) at the first row's corner.

    Attributes:
        places: the middle of each box.
        routes: for each edge the points it passes, from the border of its start to that of its end.
        size: of the whole.
    """

    places: list[Place]
    routes: list[list[Place]]
    size: Place


def layered_layout(sizes: Sequence[Place], edges: Sequence[tuple[int, int]], gap: float, row_gap: float) -> Layout:
    """Lay out a graph without cycles.

    Args:
        sizes: (across, along) of each box.
        edges: (from, to) by number; ``from`` comes before ``to``.
        gap: between boxes of a row.
        row_gap: between rows.

    Example:
        >>> layered_layout([(2, 1), (2, 1)], [(0, 1)], 1, 1).places
        [(1.0, 0.5), (1.0, 2.5)]
    """
    graph = _Graph(sizes, edges)
    graph.order_rows()
    across = graph.across(gap)
    along = graph.along(row_gap)
    places = [(float(across[i]), float(along[i])) for i in range(len(sizes))]
    routes = []
    for chain in graph.chains:
        first, last = chain[0], chain[-1]
        points = [(float(across[i]), float(along[i])) for i in chain]
        points[0] = (points[0][0], points[0][1] + sizes[first][1] / 2)
        points[-1] = (points[-1][0], points[-1][1] - sizes[last][1] / 2)
        routes.append(points)
    width = max((across[i] + graph.widths[i] / 2 for i in range(len(across))), default=0.0)
    height = max((place[1] + size[1] / 2 for place, size in zip(places, sizes, strict=True)), default=0.0)
    return Layout(places, routes, (float(width), float(height)))


class _Graph:
    """Boxes in rows; an edge over several rows passes through a point of its own in each row between."""

    def __init__(self, sizes: Sequence[Place], edges: Sequence[tuple[int, int]]) -> None:
        self.sizes = sizes
        self.widths = [size[0] for size in sizes]
        depth = self._depths(len(sizes), edges)
        self.chains: list[list[int]] = []
        self.above: list[list[int]] = [[] for _ in sizes]
        self.below: list[list[int]] = [[] for _ in sizes]
        for start, end in edges:
            chain = [start]
            for level in range(depth[start] + 1, depth[end]):
                chain.append(len(depth))
                depth.append(level)
                self.widths.append(0.0)
                self.above.append([])
                self.below.append([])
            chain.append(end)
            self.chains.append(chain)
            for upper, lower in pairwise(chain):
                self.below[upper].append(lower)
                self.above[lower].append(upper)
        self.depth = depth
        self.rows: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
        for number, level in enumerate(depth):
            self.rows[level].append(number)

    @staticmethod
    def _depths(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
        """The row of each box: below all it reads, and for what reads nothing just above what reads it."""
        depth = [0] * count
        for start, end in sorted(edges, key=lambda edge: edge[1]):
            depth[end] = max(depth[end], depth[start] + 1)
        readers: dict[int, list[int]] = {}
        entered = {end for _, end in edges}
        for start, end in edges:
            readers.setdefault(start, []).append(depth[end])
        for box, levels in readers.items():
            if box not in entered:
                depth[box] = min(levels) - 1
        return depth

    def order_rows(self) -> None:
        """Sort each row by the middle of its neighbours' places, down and up in turns; the best order is kept."""
        best, fewest = [list(row) for row in self.rows], self._crossings()
        for sweep in range(_SWEEPS):
            down = sweep % 2 == 0
            neighbours = self.above if down else self.below
            for level in range(len(self.rows)) if down else range(len(self.rows) - 1, -1, -1):
                place = self._positions()
                row = self.rows[level]
                row.sort(
                    key=lambda box, place=place: (  # type: ignore[misc]
                        np.mean([place[n] for n in neighbours[box]]) if neighbours[box] else place[box]
                    )
                )
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(row) for row in self.rows], crossings
        self.rows = best

    def _positions(self) -> dict[int, float]:
        """Each box's place in its row, from 0 to 1."""
        return {box: (i + 0.5) / len(row) for row in self.rows for i, box in enumerate(row)}

    def _crossings(self) -> int:
        total = 0
        for row, lower in pairwise(self.rows):
            rank = {box: i for i, box in enumerate(lower)}
            ends = [rank[end] for box in row for end in sorted(self.below[box], key=rank.__getitem__)]
            total += sum(1 for i, a in enumerate(ends) for b in ends[i + 1 :] if b < a)
        return total

    def across(self, gap: float) -> np.ndarray:
        """The middle of each box across the flow: near its neighbours, in its row's order, ``gap`` apart."""
        middle = np.zeros(len(self.depth))
        for row in self.rows:
            edge = 0.0
            for box in row:
                middle[box] = edge + self.widths[box] / 2
                edge += self.widths[box] + gap
        for sweep in range(_SWEEPS):
            down = sweep % 2 == 0
            for level in range(len(self.rows)) if down else range(len(self.rows) - 1, -1, -1):
                self._settle(middle, self.rows[level], gap, down)
        low = min((middle[i] - self.widths[i] / 2 for i in range(len(middle))), default=0.0)
        return middle - low

    def _settle(self, middle: np.ndarray, row: list[int], gap: float, down: bool) -> None:
        """Move a row's boxes to where their neighbours are, least squares under the order and the gaps."""
        wish = []
        for box in row:
            near = self.above[box] if down else self.below[box]
            near = near or [*self.above[box], *self.below[box]]
            wish.append(float(np.mean(middle[near])) if near else float(middle[box]))
        room = [0.0]
        for left, right in pairwise(row):
            room.append(room[-1] + (self.widths[left] + self.widths[right]) / 2 + gap)
        for box, place, offset in zip(
            row, _rising([w - r for w, r in zip(wish, room, strict=True)]), room, strict=True
        ):
            middle[box] = place + offset

    def along(self, row_gap: float) -> np.ndarray:
        """The middle of each box along the flow: its row's."""
        middle = np.zeros(len(self.depth))
        edge = 0.0
        for row in self.rows:
            height = max((self.sizes[box][1] for box in row if box < len(self.sizes)), default=0.0)
            for box in row:
                middle[box] = edge + height / 2
            edge += height + row_gap
        return middle


def _rising(values: Sequence[float]) -> list[float]:
    """The nearest sequence that never falls (least squares, by pooling neighbours that do).

    Example:
        >>> _rising([0, 3, 1, 5])
        [0.0, 2.0, 2.0, 5.0]
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, size = float(value), 1
        while pools and pools[-1][0] > mean:
            before, number = pools.pop()
            mean, size = (before * number + mean * size) / (number + size), number + size
        pools.append((mean, size))
    return [mean for mean, size in pools for _ in range(size)]


__all__ = ["Layout", "Place", "layered_layout"]
