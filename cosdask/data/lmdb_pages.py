"""The pages of an LMDB file, data format 1 of LMDB 0.9 (64-bit, little endian), read without native code.

A page begins with 16 bytes: its number (u64), padding (u16), flags (u16), then where its free space begins and ends
(u16 each), or the length of a run of overflow pages (u32). The offsets of its nodes (u16) follow. A node is size or
child (u16 low, u16 high), flags (u16), length of the key (u16), the key, then the value or the number of the overflow
page that holds it. Pages 0 and 1 hold the two roots, of which the one with the higher transaction counts.

No number found in a file is believed: a page says its own number and kind, nodes lie inside their page, values and
children inside the file. Whatever does not fit is a DataError that names the file and the page.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cosdask.errors import DataError
from cosdask.storage import RangeFile

__all__ = [
    "HEADER",
    "Branch",
    "Leaves",
    "Meta",
    "check_order",
    "check_overflow",
    "overflow_pages",
    "parse_branches",
    "parse_leaves",
]

#: Bytes of a page's header.
HEADER = 16
#: Bytes of a node before its key.
_NODE = 8
_MAGIC = 0xBEEFC0DE
_VERSION = 1
_NO_PAGE = (1 << 64) - 1
#: LMDB's own limit of levels.
_MOST_LEVELS = 32
_PAGE_SIZES = tuple(1 << bits for bits in range(8, 17))

_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
_KINDS = {_BRANCH: "a branch page", _LEAF: "a leaf page", _OVERFLOW: "an overflow page", _META: "a meta page"}
#: Bits that tell what a page is for; others (dirty, loose) may linger.
_KIND_BITS = 0x6F
_BIG = 1
_SUBDATABASE, _DUPLICATES = 2, 4
#: Flags of a database whose keys are compared from their end, or as numbers.
_OTHER_ORDERS = 2 | 8

# Magic, version, address, map size; two databases (free pages, then rows); last page, transaction.
_META_FIELDS = struct.Struct("<IIQQ IHHQQQQQ IHHQQQQQ QQ")
_META_BYTES = HEADER + _META_FIELDS.size


@dataclass(frozen=True)
class Meta:
    """What an LMDB file says of itself: sizes of its tree, and where it begins.

    ``depth`` is the number of levels, leaves included; 0 where there are no rows; ``ordered`` says that keys are
    compared byte by byte.
    """

    path: str
    file_size: int
    page_size: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    rows: int
    root: int
    last_page: int
    transaction: int
    ordered: bool

    @classmethod
    def read(cls, file: RangeFile) -> Meta:
        """The newer of a file's two meta pages.

        Raises:
            DataError: not an LMDB of this format, damaged, or of a kind that holds no Datums.
        """
        head = file.read(0, 4096 + _META_BYTES)
        first = _meta(head, file, 0)
        if first.page_size > 4096:
            head = head[:_META_BYTES].ljust(first.page_size, b"\0")
            head += file.read(first.page_size, first.page_size + _META_BYTES)
        second = _meta(head[first.page_size :], file, 1)
        if second.page_size != first.page_size:
            raise _damaged(file.url, 1, f"pages of {second.page_size} bytes where page 0 says {first.page_size}")
        return max(second, first, key=lambda meta: meta.transaction)

    @property
    def row_bytes(self) -> int:
        """About how many bytes of the file belong to a row, at least 1."""
        return max(1, (self.leaf_pages + self.overflow_pages) * self.page_size // max(1, self.rows))

    def damaged(self, page: int, text: str) -> DataError:
        """The error for a page that cannot be right."""
        return _damaged(self.path, page, text)

    def check_pages(self, first: np.ndarray, count: np.ndarray | int, named_by: np.ndarray | int) -> None:
        """Refuse page numbers outside the file.

        Args:
            first: page numbers, int64.
            count: how many pages follow each other from there.
            named_by: the page that says so.
        """
        last = first + count - 1
        bad = (first < 2) | (last > self.last_page) | (last < first)
        if bad.any():
            at = int(np.argmax(bad))
            source = int(np.broadcast_to(named_by, first.shape)[at])
            raise self.damaged(source, f"it names page {first[at]}, but pages are 2 to {self.last_page}")
        short = (last + 1) * self.page_size > self.file_size
        if short.any():
            needed = (int(last[int(np.argmax(short))]) + 1) * self.page_size
            raise DataError(
                f"{self.path}: {self.file_size} bytes, but {needed} are needed; the copy is cut short", path=self.path
            )


def _damaged(path: str, page: int, text: str) -> DataError:
    return DataError(f"{path}: damaged LMDB, page {page}: {text}", path=path, page=page)


def _foreign(path: str, text: str) -> DataError:
    return DataError(f"{path}: not a readable LMDB: {text}", path=path)


def _meta(data: bytes, file: RangeFile, page: int) -> Meta:
    if len(data) < _META_BYTES:
        raise _foreign(file.url, f"{file.size} bytes; the copy is cut short, or this is something else")
    fields = _META_FIELDS.unpack_from(data, HEADER)
    magic, version = fields[:2]
    if magic != _MAGIC:
        raise _foreign(file.url, _other_magic(data, page))
    if version != _VERSION:
        raise _foreign(file.url, f"data format {version}, LMDB 0.9 writes format {_VERSION}")
    if int.from_bytes(data[10:12], "little") & _KIND_BITS != _META:
        raise _damaged(file.url, page, "it is no meta page")
    page_size = fields[4]
    flags, depth, branches, leaves, overflow, rows, root = fields[13:20]
    last_page, transaction = fields[20:]
    if page_size not in _PAGE_SIZES:
        raise _damaged(file.url, page, f"pages of {page_size} bytes")
    if flags & _DUPLICATES:
        raise _foreign(file.url, "it holds several values a key (MDB_DUPSORT); Caffe's hold one")
    if last_page >= 1 << 47 or max(branches, leaves, overflow) > last_page:
        raise _damaged(file.url, page, f"{branches} + {leaves} + {overflow} pages of a tree, but {last_page} in all")
    if (rows == 0) != (root == _NO_PAGE) or (rows == 0) != (depth == 0) or depth > _MOST_LEVELS:
        raise _damaged(file.url, page, f"{rows} rows in a tree of {depth} levels with its root in page {root}")
    # A leaf page has room for no more than one node in ten bytes.
    if rows > leaves * (page_size // 10):
        raise _damaged(file.url, page, f"{rows} rows in {leaves} leaf pages")
    return Meta(
        path=file.url,
        file_size=file.size,
        page_size=page_size,
        depth=depth,
        branch_pages=branches,
        leaf_pages=leaves,
        overflow_pages=overflow,
        rows=rows,
        root=root if rows else 0,
        last_page=last_page,
        transaction=transaction,
        ordered=not flags & _OTHER_ORDERS,
    )


def _other_magic(data: bytes, page: int) -> str:
    """What a file is that does not have the magic number in its place."""
    if int.from_bytes(data[12:16], "little") == _MAGIC:
        return "it was written by a 32-bit program; write it again on a 64-bit machine"
    if int.from_bytes(data[16:20], "big") == _MAGIC:
        return "it was written on a big-endian machine; write it again on a little-endian one"
    return f"page {page} does not begin as LMDB's meta pages do"


@dataclass(frozen=True)
class _Nodes:
    """The nodes of several pages in one buffer; ``page`` counts the pages given, offsets are bytes of the buffer."""

    page: np.ndarray
    start: np.ndarray
    words: np.ndarray
    end: np.ndarray
    counts: np.ndarray

    @property
    def key_start(self) -> np.ndarray:
        return self.start + _NODE

    @property
    def key_stop(self) -> np.ndarray:
        return self.start + _NODE + self.words[:, 3]


def _nodes(data: np.ndarray, pages: np.ndarray, meta: Meta, kind: int) -> _Nodes:
    """Find the nodes of pages that lie behind each other in ``data`` and must be of one kind."""
    size = meta.page_size
    words = data.view("<u2").reshape(len(pages), size // 2)
    numbers = data.view("<u8").reshape(len(pages), size // 8)[:, 0]
    _check(meta, pages, numbers == pages.astype(np.uint64), lambda i: f"it says that it is page {numbers[i]}")
    kinds = words[:, 5] & _KIND_BITS
    _check(meta, pages, kinds == kind, lambda i: f"{_kind(int(kinds[i]))} where {_KINDS[kind]} must be")
    lower, upper = words[:, 6].astype(np.int64), words[:, 7].astype(np.int64)
    good = (lower >= HEADER) & (lower % 2 == 0) & (lower <= upper) & (upper <= size)
    _check(meta, pages, good, lambda i: f"its free space goes from {lower[i]} to {upper[i]} of {size} bytes")
    counts = (lower - HEADER) // 2
    page = np.repeat(np.arange(len(pages)), counts)
    within = np.arange(len(page)) - np.repeat(np.cumsum(counts) - counts, counts)
    offset = words[page, HEADER // 2 + within].astype(np.int64)
    good = (offset >= upper[page]) & (offset <= size - _NODE) & (offset % 2 == 0)
    _check(meta, pages[page], good, lambda i: f"a node at {offset[i]} of {size} bytes")
    start = page * size + offset
    node = data.view("<u2")[(start // 2)[:, None] + np.arange(4)].astype(np.int64)
    end = (page + 1) * size
    _check(meta, pages, counts >= 1, lambda i: f"{_KINDS[kind]} without nodes")
    _check(meta, pages[page], start + _NODE + node[:, 3] <= end, lambda i: f"a key of {node[i, 3]} bytes leaves it")
    return _Nodes(page, start, node, end, counts)


def _check(meta: Meta, pages: np.ndarray, good: np.ndarray, text: Callable[[int], str]) -> None:
    """Raise for the first page that is not good; ``text`` tells what is wrong with the i-th."""
    if not good.all():
        at = int(np.argmin(good))
        raise meta.damaged(int(pages[at]), text(at))


def _kind(bits: int) -> str:
    return _KINDS.get(bits, f"a page of the unknown kind {bits:#x}")


@dataclass(frozen=True)
class Branch:
    """The children of one branch page, in the order of their keys, int64."""

    page: int
    children: np.ndarray


def parse_branches(data: np.ndarray, pages: np.ndarray, meta: Meta) -> list[Branch]:
    """The children of branch pages.

    Args:
        data: uint8, the pages behind each other.
        pages: their numbers, int64.
        meta: of their file.

    Raises:
        DataError: damaged.
    """
    nodes = _nodes(data, pages, meta, _BRANCH)
    children = nodes.words[:, 0] | nodes.words[:, 1] << 16 | nodes.words[:, 2] << 32
    meta.check_pages(children, 1, pages[nodes.page])
    parts = np.split(children, np.cumsum(nodes.counts)[:-1])
    return [Branch(int(page), part) for page, part in zip(pages, parts, strict=True)]


@dataclass(frozen=True)
class Leaves:
    """The rows of some leaf pages: where their keys and values lie.

    Attributes:
        data: uint8, the pages behind each other.
        pages: their numbers, int64.
        counts: rows of each page.
        key_start: int64, a row; bytes of ``data``.
        key_stop: the same.
        value_start: where values lie that are in the leaf.
        size: bytes of each value.
        overflow: the first overflow page of values that are not in the leaf, else 0.
    """

    data: np.ndarray
    pages: np.ndarray
    counts: np.ndarray
    key_start: np.ndarray
    key_stop: np.ndarray
    value_start: np.ndarray
    size: np.ndarray
    overflow: np.ndarray

    def key(self, row: int) -> bytes:
        """A row's key."""
        return bytes(self.data[self.key_start[row] : self.key_stop[row]])


def overflow_pages(size: np.ndarray, meta: Meta) -> np.ndarray:
    """How many overflow pages values of these sizes take."""
    pages: np.ndarray = (size + HEADER - 1) // meta.page_size + 1
    return pages


def parse_leaves(data: np.ndarray, pages: np.ndarray, meta: Meta) -> Leaves:
    """The rows of leaf pages; values in overflow pages are located, not read.

    Args:
        data: uint8, the pages behind each other.
        pages: their numbers, int64.
        meta: of their file.

    Raises:
        DataError: damaged, or not rows with one value each.
    """
    nodes = _nodes(data, pages, meta, _LEAF)
    where = pages[nodes.page]
    flags = nodes.words[:, 2]
    special = flags & (_SUBDATABASE | _DUPLICATES) != 0
    _check(meta, where, ~special, lambda i: "it holds named databases or several values a key; Caffe writes neither")
    size = nodes.words[:, 0] | nodes.words[:, 1] << 16
    big = flags & _BIG != 0
    stop = nodes.key_stop
    fits = stop + np.where(big, 8, size) <= nodes.end
    _check(meta, where, fits, lambda i: f"a value of {size[i]} bytes leaves it")
    overflow = np.zeros(len(size), np.int64)
    if big.any():
        named = data[stop[big][:, None] + np.arange(8)].copy().view("<u8")[:, 0]
        first = np.minimum(named, np.uint64(1 << 48)).astype(np.int64)
        meta.check_pages(first, overflow_pages(size[big], meta), where[big])
        overflow[big] = first
    return Leaves(data, pages, nodes.counts, nodes.key_start, stop, stop, size, overflow)


def check_order(leaves: Leaves, before: bytes, meta: Meta) -> bytes:
    """Refuse rows that are not in the order of their keys: some come twice.

    Args:
        leaves: rows that follow each other.
        before: the key before them.
        meta: of their file.

    Returns:
        The last key.

    Raises:
        DataError: damaged.
    """
    last = leaves.key(len(leaves.size) - 1)
    if not meta.ordered:
        return last
    # Eight bytes tell most keys apart; only where these are equal whole keys are compared.
    place = leaves.key_start[:, None] + np.arange(8)
    inside = place < leaves.key_stop[:, None]
    heads = np.where(inside, leaves.data[np.where(inside, place, 0)], np.uint8(0)).view(">u8")[:, 0]
    wrong = heads[1:] < heads[:-1]
    for row in np.flatnonzero(heads[1:] == heads[:-1]).tolist():
        wrong[row] = leaves.key(row) >= leaves.key(row + 1)
    if before >= leaves.key(0) or wrong.any():
        row = int(np.argmax(wrong)) + 1 if wrong.any() and before < leaves.key(0) else 0
        page = int(leaves.pages[np.searchsorted(np.cumsum(leaves.counts), row, side="right")])
        raise meta.damaged(page, "its keys do not ascend, or not after those before it")
    return last


def check_overflow(data: np.ndarray, start: np.ndarray, first: np.ndarray, size: np.ndarray, meta: Meta) -> None:
    """Refuse overflow pages that are something else.

    Args:
        data: uint8, some pages.
        start: int64, where in ``data`` each run of pages begins.
        first: the numbers of their first pages.
        size: bytes of the value in each run.
        meta: of their file.

    Raises:
        DataError: damaged.
    """
    headers = data[start[:, None] + np.arange(HEADER)]
    numbers = headers[:, :8].copy().view("<u8")[:, 0]
    _check(meta, first, numbers == first.astype(np.uint64), lambda i: f"it says that it is page {numbers[i]}")
    kinds = headers[:, 10:12].copy().view("<u2")[:, 0] & _KIND_BITS
    kind_text = _KINDS[_OVERFLOW]
    _check(meta, first, kinds == _OVERFLOW, lambda i: f"{_kind(int(kinds[i]))} where {kind_text} must be")
    runs = headers[:, 12:16].copy().view("<u4")[:, 0].astype(np.int64)
    enough = runs >= overflow_pages(size, meta)
    _check(meta, first, enough, lambda i: f"{runs[i]} pages cannot hold a value of {size[i]} bytes")
