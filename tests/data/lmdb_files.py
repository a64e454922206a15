"""LMDB files for tests: by LMDB itself, and by a small writer that can choose the page size and tell lies."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import lmdb

NO_PAGE = (1 << 64) - 1


def write(path: Path, rows: Mapping[bytes, bytes], deleted: Sequence[bytes] = (), subdir: bool = True) -> Path:
    """Write rows with LMDB in a few transactions, delete some again; returns the file of pages."""
    environment = lmdb.open(str(path), map_size=1 << 26, subdir=subdir)
    items = list(rows.items())
    for first in range(0, len(items), 50):
        with environment.begin(write=True) as transaction:
            for key, value in items[first : first + 50]:
                transaction.put(key, value)
    with environment.begin(write=True) as transaction:
        for key in deleted:
            transaction.delete(key)
    environment.close()
    return path / "data.mdb" if subdir else path


def expected(path: Path) -> list[tuple[bytes, bytes]]:
    """The rows as LMDB reads them."""
    with (
        lmdb.open(str(path), readonly=True, lock=False, subdir=path.is_dir()) as environment,
        environment.begin() as transaction,
        transaction.cursor() as cursor,
    ):
        return list(cursor)


class Pages:
    """Writes an LMDB page by page, as its file format says.

    Args:
        size: bytes of a page.
    """

    def __init__(self, size: int = 4096) -> None:
        self.size = size
        self.pages: list[bytes] = [b"", b""]

    def build(self, rows: Sequence[tuple[bytes, bytes]], fan: int = 3) -> bytes:
        """A whole file of sorted rows; ``fan`` nodes a page."""
        level = [self.leaf(rows[first : first + fan]) for first in range(0, len(rows), fan)]
        leaves, depth, branches = len(level), 1, 0
        keys = [rows[first][0] for first in range(0, len(rows), fan)]
        while len(level) > 1:
            groups = range(0, len(level), fan)
            level, keys = (
                [self.branch(keys[first : first + fan], level[first : first + fan]) for first in groups],
                [keys[first] for first in groups],
            )
            depth, branches = depth + 1, branches + len(level)
        overflow = len(self.pages) - 2 - leaves - branches
        return self.file(
            root=level[0], depth=depth, branches=branches, leaves=leaves, overflow=overflow, rows=len(rows)
        )

    def file(self, *, root: int, depth: int, branches: int, leaves: int, overflow: int, rows: int) -> bytes:
        """The pages behind meta pages that say this."""
        none = struct.pack("<IHHQQQQQ", self.size, 0, 0, 0, 0, 0, 0, NO_PAGE)
        main = struct.pack("<IHHQQQQQ", 0, 0, depth, branches, leaves, overflow, rows, root)
        last = len(self.pages) - 1
        for number in range(2):
            meta = struct.pack("<IIQQ", 0xBEEFC0DE, 1, 0, 1 << 26) + none + main + struct.pack("<QQ", last, number)
            head = struct.pack("<QHHHH", number, 0, 8, 0, 0)
            self.pages[number] = (head + meta).ljust(self.size, b"\0")
        return b"".join(self.pages)

    def leaf(self, rows: Sequence[tuple[bytes, bytes]]) -> int:
        """Add a leaf page; values of more than half a page go to overflow pages. Returns its number."""
        nodes = []
        for key, value in rows:
            kept, flags = value, 0
            if 8 + len(key) + len(value) > (self.size - 16) // 2 - 2:
                kept, flags = struct.pack("<Q", self.overflow(value)), 1
            nodes.append(struct.pack("<HHHH", len(value) & 0xFFFF, len(value) >> 16, flags, len(key)) + key + kept)
        return self.page(2, nodes)

    def branch(self, keys: Sequence[bytes], children: Sequence[int]) -> int:
        """Add a branch page; returns its number."""
        nodes = []
        for place, (key, child) in enumerate(zip(keys, children, strict=True)):
            key = key if place else b""
            nodes.append(struct.pack("<HHHH", child & 0xFFFF, child >> 16 & 0xFFFF, child >> 32, len(key)) + key)
        return self.page(1, nodes)

    def overflow(self, value: bytes) -> int:
        """Add the overflow pages of a value; returns the first one's number."""
        number, count = len(self.pages), (len(value) + 15) // self.size + 1
        data = (struct.pack("<QHHI", number, 0, 4, count) + value).ljust(count * self.size, b"\0")
        self.pages += [data[first : first + self.size] for first in range(0, len(data), self.size)]
        return number

    def page(self, kind: int, nodes: Sequence[bytes]) -> int:
        """Add a page of nodes; returns its number."""
        number, end, offsets, body = len(self.pages), self.size, [], b""
        for node in nodes:
            node += b"\0" * (len(node) % 2)
            end -= len(node)
            offsets.append(end)
            body = node + body
        lower = 16 + 2 * len(nodes)
        assert lower <= end
        head = struct.pack("<QHHHH", number, 0, kind, lower, end) + struct.pack(f"<{len(offsets)}H", *offsets)
        self.pages.append(head.ljust(end, b"\0") + body)
        return number
