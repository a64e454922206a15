"""Walking the tree of an LMDB file: counting its rows by block, and reading them from any place on.

Pages are fetched by ranges through any filesystem: neighbors in one request, several megabytes at a time, and only
those that hold wanted rows.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from cosdask.data.index import Block, Index
from cosdask.data.lmdb_blocks import Blocks, Fetch, Path, Piece
from cosdask.data.lmdb_pages import (
    HEADER,
    Leaves,
    Meta,
    check_overflow,
    overflow_pages,
    parse_branches,
    parse_leaves,
)
from cosdask.data.rows import Records
from cosdask.errors import DataError
from cosdask.storage import FileStamp, RangeFile, merged_ranges

__all__ = ["LmdbTree"]

#: Bytes fetched at a time, about.
_WINDOW = 8 << 20
#: Branch pages fetched at a time, at most.
_BRANCHES = 32
#: Children of branch pages that are remembered in a process.
_REMEMBERED = 2_000_000
#: Files whose meta pages are remembered in a process.
_FILES = 64
#: Most bytes of a value: no Datum can be larger.
_MOST_BYTES = (1 << 31) - 1


class _Branches:
    """The children of branch pages that this process has read lately, by file and page."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], np.ndarray] = OrderedDict()
        self._children = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...]) -> np.ndarray | None:
        """The children, or None where they must be read."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: tuple[Any, ...], children: np.ndarray) -> None:
        """Remember; the longest unused are forgotten."""
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = children
            self._children += len(children)
            while self._children > _REMEMBERED:
                self._children -= len(self._kept.popitem(last=False)[1])


class _Metas:
    """What files say of themselves, by name, size and time of the last change."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, FileStamp], Meta] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, file: RangeFile) -> Meta:
        """From the file, unless it was read before and is known not to have changed since."""
        key = file.url, file.stamp
        with self._lock:
            found = self._kept.get(key)
        if found is None or not file.stamp.changed or file.is_local:
            found = Meta.read(file)
            with self._lock:
                self._kept[key] = found
                if len(self._kept) > _FILES:
                    self._kept.popitem(last=False)
        return found


_CACHE = _Branches()
_METAS = _Metas()


class LmdbTree:
    """An LMDB file open for reading by ranges of pages.

    Args:
        url: the file ``data.mdb`` (or of any name), local or a URL.
        window: bytes fetched at a time, about; a row larger than that is fetched whole.

    Raises:
        StorageError: missing, or not readable.
        DataError: no LMDB, damaged, or cut short.

    Example:
        >>> import lmdb, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with lmdb.open(folder) as environment, environment.begin(write=True) as transaction:
        ...     _ = [transaction.put(b"%d" % i, b"value %d" % i) for i in range(4)]
        >>> with LmdbTree(folder + "/data.mdb") as tree:
        ...     [bytes(value) for rows in tree.rows([0, 0], skip=1, count=2) for value in rows.values]
        [b'value 1', b'value 2']
    """

    def __init__(self, url: str, window: int = _WINDOW) -> None:
        self._file = RangeFile(url)
        self._window = window
        try:
            self.meta = _METAS.get(self._file)
            self._whole = self._file.mapped()
            self._file_key = (self._file.url, self._file.stamp, self.meta.transaction)
            if self.meta.rows:
                self.meta.check_pages(np.array([self.meta.root]), 1, 0)
        except BaseException:
            self._file.close()
            raise

    @property
    def stamp(self) -> FileStamp:
        """The file's size and time when it was opened."""
        return self._file.stamp

    @property
    def is_local(self) -> bool:
        """Whether the file is mapped, and not fetched by ranges."""
        return self._whole is not None

    @property
    def first(self) -> list[int]:
        """The place of the first row, see :meth:`rows`."""
        return [0] * max(2, self.meta.depth)

    def close(self) -> None:
        """Close the file; may be called again."""
        self._file.close()

    def __enter__(self) -> LmdbTree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Branches.

    def bottoms(self, start: Path = (), stop: Path | None = None, ahead: int = 1) -> Iterator[tuple[Path, np.ndarray]]:
        """The lowest branch pages in order: their paths (which child leads down, a number a level) and children.

        Args:
            start: the first one's path.
            stop: the path before which to end; None for all.
            ahead: branch pages fetched at first; twice as many each time.
        """
        if self.meta.depth == 1:
            yield (), np.array([self.meta.root])
        elif self.meta.depth:
            yield from self._below((), self._children([self.meta.root])[0], start, stop, ahead)

    def _below(
        self, path: Path, children: np.ndarray, start: Path, stop: Path | None, ahead: int
    ) -> Iterator[tuple[Path, np.ndarray]]:
        """The lowest branch pages below one whose children are known; the levels bound the descent."""
        level = len(path)
        if level == self.meta.depth - 2:
            yield path, children
            return
        first = start[level] if start[:level] == path and len(start) > level else 0
        last = len(children)
        if stop is not None and stop[:level] == path and len(stop) > level:
            # The child that holds the stop is looked into, unless the stop is its very beginning.
            last = min(last, stop[level] + int(any(stop[level + 1 :])))
        while first < last:
            pages = children[first : min(last, first + ahead)]
            for number, found in enumerate(self._children(pages.tolist()), first):
                yield from self._below((*path, number), found, start, stop, ahead)
            first, ahead = first + len(pages), min(2 * ahead, _BRANCHES)

    def _children(self, pages: Sequence[int]) -> list[np.ndarray]:
        """The children of branch pages, remembered or read together."""
        known = {page: _CACHE.get((*self._file_key, page)) for page in pages}
        wanted = np.array(sorted(page for page, children in known.items() if children is None), np.int64)
        if len(wanted):
            for branch in parse_branches(self._pages(wanted), wanted, self.meta):
                known[branch.page] = branch.children
                _CACHE.put((*self._file_key, branch.page), branch.children)
        return [children for page in pages if (children := known[page]) is not None]

    # Pages.

    def _table(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pages as rows of a table, uint8 (n, page size), and which row is which page."""
        size = self.meta.page_size
        data, starts = self._runs(numbers, np.ones(len(numbers), np.int64))
        return data[: len(data) // size * size].reshape(-1, size), starts // size

    def _pages(self, numbers: np.ndarray) -> np.ndarray:
        """Pages behind each other in the order given; a view where they lie so."""
        return _in_order(*self._table(numbers))

    def _runs(self, first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Runs of pages: a buffer that holds them, and where in it each begins. Neighbors come in one request."""
        size = self.meta.page_size
        if self._whole is not None:
            return self._whole, first * size
        ranges = merged_ranges(first * size, (first + count) * size)
        data = self._file.gather(ranges)
        starts = np.array([start for start, _ in ranges])
        lengths = np.array([stop - start for start, stop in ranges])
        if len(data) != lengths.sum():
            raise self.meta.damaged(int(first[0]), "the file became shorter while it was read")
        number = np.searchsorted(starts, first * size, side="right") - 1
        return data, first * size - starts[number] + (np.cumsum(lengths) - lengths)[number]

    def _pieces(
        self, bottoms: Iterable[tuple[Path, np.ndarray]], leaf: int, most: Callable[[], int]
    ) -> Iterator[Fetch]:
        """Leaf pages a window at a time, from the one with the number ``leaf`` in the first branch page on.

        Args:
            bottoms: see :meth:`bottoms`.
            leaf: number of the first one.
            most: says before each fetch how many pages it may have.
        """
        pieces: list[Piece] = []
        room = 0
        for path, pages in bottoms:
            while leaf < len(pages):
                room = room or most()
                pieces.append(Piece(path, leaf, pages[leaf : leaf + room]))
                leaf, room = leaf + len(pieces[-1].pages), room - len(pieces[-1].pages)
                if not room:
                    yield self._fetch(pieces)
                    pieces = []
            leaf = 0
        if pieces:
            yield self._fetch(pieces)

    def _fetch(self, pieces: list[Piece]) -> Fetch:
        pages = np.concatenate([piece.pages for piece in pieces])
        return Fetch(pieces, parse_leaves(self._pages(pages), pages, self.meta))

    # Counting.

    def shares(self, count: int) -> list[tuple[Path, Path | None]]:
        """At most ``count`` stretches of the tree, about equally large, that :meth:`count` can take apart.

        Raises:
            DataError: damaged.
        """
        paths = self._bottom_paths()
        count = min(count, len(paths))
        cuts: list[Path | None] = [paths[len(paths) * share // count] for share in range(count)]
        return [(start or (), stop) for start, stop in pairwise([*cuts, None])]

    def _bottom_paths(self) -> list[Path]:
        """The path of each lowest branch page; these pages themselves are not read."""
        level: list[tuple[Path, int]] = [((), self.meta.root)] if self.meta.depth else []
        for _ in range(self.meta.depth - 2):
            below: list[tuple[Path, int]] = []
            for group in range(0, len(level), _BRANCHES):
                part = level[group : group + _BRANCHES]
                for (path, _page), children in zip(part, self._children([page for _, page in part]), strict=True):
                    below += [((*path, number), page) for number, page in enumerate(children.tolist())]
                if len(below) > self.meta.branch_pages:
                    text = f"{len(below)} branch pages below it, but the file says {self.meta.branch_pages} in all"
                    raise self.meta.damaged(self.meta.root, text)
            level = below
        return [path for path, _ in level]

    def count(self, start: Path = (), stop: Path | None = None, step: int = 1024) -> list[Block]:
        """The rows by block, in order, of which none spans two of the lowest branch pages.

        So blocks do not hang on how the tree was shared out. Every leaf page is read and checked.

        Args:
            start: see :meth:`shares`.
            stop: the same.
            step: rows of a block, at most.

        Returns:
            Blocks whose ``place`` has ``at`` (the path of the first row's leaf page, and its node there) and ``key``
            (the first row's, in hexadecimal digits).

        Raises:
            DataError: damaged.
        """
        blocks = Blocks(step, self.meta)
        leaves = 0
        most = max(1, self._window // self.meta.page_size)
        for fetch in self._pieces(self.bottoms(start, stop, _BRANCHES), 0, lambda: most):
            leaves += len(fetch.leaves.pages)
            if leaves > self.meta.leaf_pages:
                text = f"more leaf pages below it than the {self.meta.leaf_pages} that the file says it has"
                raise self.meta.damaged(self.meta.root, text)
            blocks.add(fetch)
        return blocks.done()

    def index(self, blocks: Sequence[Block]) -> Index:
        """The index of all blocks.

        Raises:
            DataError: they hold other rows than the file says, or rows twice.
        """
        index = Index(tuple(blocks))
        keys = [bytes.fromhex(block.place["key"]) for block in blocks]
        if self.meta.ordered and any(key >= after for key, after in pairwise(keys)):
            raise self.meta.damaged(self.meta.root, "the keys below it do not ascend")
        if index.rows != self.meta.rows:
            text = f"{index.rows} rows below it, but the file says that it has {self.meta.rows}"
            raise self.meta.damaged(self.meta.root, text)
        return index

    # Reading.

    def rows(self, at: Sequence[int], skip: int, count: int) -> Iterator[Records]:
        """``count`` rows, beginning ``skip`` rows after a place.

        Args:
            at: a block's ``at``, see :meth:`count`.
            skip: rows after that place.
            count: how many.

        Yields:
            Rows of about a window; values are views of it.

        Raises:
            DataError: damaged, or fewer rows.
        """
        if count < 1:
            return
        *path, leaf, skip_nodes = self._checked(at)
        each = self.meta.rows / max(1, self.meta.leaf_pages)
        per_leaf = (1 + self.meta.overflow_pages // max(1, self.meta.leaf_pages)) * self.meta.page_size
        batch = max(1, self._window // per_leaf)
        skip, left = skip + skip_nodes, count

        def most() -> int:
            return min(batch, max(1, math.ceil((skip + left) / each)))

        for fetch in self._pieces(self.bottoms(tuple(path)), leaf, most):
            rows = len(fetch.leaves.size)
            taken = min(left, max(0, rows - skip))
            if taken:
                yield from self._values(fetch.leaves, skip, skip + taken)
            skip, left = max(0, skip - rows), left - taken
            if not left:
                return
        text = f"{count - left} rows from the place {list(at)} on, but {count} were counted"
        raise self.meta.damaged(self.meta.root, text)

    def _checked(self, at: Sequence[int]) -> list[int]:
        """A place of the index that can be one of this tree's."""
        place = [int(step) for step in at]
        if len(place) != max(2, self.meta.depth) or min(place) < 0:
            raise DataError(f"{self.meta.path}: the index names a place {place} that this LMDB does not have")
        return place

    def _values(self, leaves: Leaves, first: int, last: int) -> Iterator[Records]:
        """The rows ``first`` to ``last`` of some leaves, with their overflow pages a window at a time."""
        size = leaves.size[first:last]
        large = size > _MOST_BYTES
        if large.any():
            raise self._too_large(leaves, first + int(np.argmax(large)))
        far = leaves.overflow[first:last] > 0
        weight = np.cumsum(np.where(far, size, 0))
        part = weight // self._window
        edges = np.flatnonzero(np.diff(part)) + 1
        for start, stop in zip([0, *edges.tolist()], [*edges.tolist(), last - first], strict=True):
            yield self._window_rows(leaves, first + start, first + stop)

    def _too_large(self, leaves: Leaves, row: int) -> DataError:
        page = int(leaves.pages[np.searchsorted(np.cumsum(leaves.counts), row, side="right")])
        key = leaves.key(row).decode("utf-8", "backslashreplace")
        return self.meta.damaged(page, f'the row with the key "{key}" has {leaves.size[row]} bytes')

    def _window_rows(self, leaves: Leaves, first: int, last: int) -> Records:
        near, far = leaves.data.data, memoryview(b"")
        begin = leaves.value_start[first:last].copy()
        size = leaves.size[first:last]
        runs = leaves.overflow[first:last]
        outside = runs > 0
        if outside.any():
            data, starts = self._runs(runs[outside], overflow_pages(size[outside], self.meta))
            check_overflow(data, starts, runs[outside], size[outside], self.meta)
            begin[outside] = starts + HEADER
            far = data.data
        spans = zip(outside.tolist(), begin.tolist(), (begin + size).tolist(), strict=True)
        values: list[bytes | memoryview] = [(far if beyond else near)[start:stop] for beyond, start, stop in spans]
        spans_of_keys = zip(leaves.key_start[first:last].tolist(), leaves.key_stop[first:last].tolist(), strict=True)
        return Records([bytes(near[start:stop]) for start, stop in spans_of_keys], values)


def _in_order(table: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Rows of a table behind each other; a view where they lie so."""
    first = int(place[0])
    if (place == np.arange(first, first + len(place))).all():
        return table[first : first + len(place)].reshape(-1)
    return np.ascontiguousarray(table[place]).reshape(-1)
