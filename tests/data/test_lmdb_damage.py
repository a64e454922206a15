"""Invariant 10: a damaged LMDB is an error that names the file and the page; never a crash, a hang or a wrong row."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from benchmarks.counted import CountedFileSystem, register
from cosdask.data.lmdb_tree import LmdbTree
from cosdask.errors import DataError
from tests.data.lmdb_files import Pages, write

register()

SIZE = 512
#: One row of three has a value in overflow pages; three rows a page, so there are three levels of branch pages.
ROWS = [(b"%04d" % i, bytes([i]) * (700 if i % 3 == 1 else 20)) for i in range(60)]


def read_all(url: str) -> list[tuple[bytes, bytes]]:
    """Count, then read all rows."""
    with LmdbTree(url) as tree:
        index = tree.index(tree.count(step=7))
        parts = [part for records in tree.rows(tree.first, 0, index.rows) for part in [records]]
        return [(key, bytes(value)) for part in parts for key, value in zip(part.keys, part.values, strict=True)]


class Damaged:
    """A whole file, and places in it that can be overwritten."""

    def __init__(self) -> None:
        self.data = bytearray(Pages(SIZE).build(ROWS))
        self.pages = [self.data[first : first + SIZE] for first in range(0, len(self.data), SIZE)]

    def first(self, kind: int) -> int:
        """The number of the first page of a kind (1: branch, 2: leaf, 4: overflow)."""
        return next(n for n, page in enumerate(self.pages) if n > 1 and page[10] == kind and page[0] == n)

    def last_branch(self) -> int:
        """The root, which is written last."""
        return len(self.pages) - 1

    def put(self, page: int, at: int, form: str, *values: int) -> None:
        """Overwrite numbers in a page."""
        struct.pack_into("<" + form, self.data, page * SIZE + at, *values)

    def node(self, page: int, number: int) -> int:
        """Where a node begins in its page."""
        return int(struct.unpack_from("<H", self.data, page * SIZE + 16 + 2 * number)[0])


def metas(at: int, form: str, value: int) -> Callable[[Damaged], None]:
    """Overwrite a number in both meta pages."""

    def damage(file: Damaged) -> None:
        for page in (0, 1):
            file.put(page, at, form, value)

    return damage


def in_page(kind: int, at: int, form: str, value: int) -> Callable[[Damaged], None]:
    """Overwrite a number in the first page of a kind."""
    return lambda file: file.put(file.first(kind), at, form, value)


def in_node(kind: int, at: int, form: str, value: int, number: int = 0) -> Callable[[Damaged], None]:
    """Overwrite a number in a node of the first page of a kind."""
    return lambda file: file.put(file.first(kind), file.node(file.first(kind), number) + at, form, value)


def cycle(file: Damaged) -> None:
    """Make the root its own child."""
    root = file.last_branch()
    file.put(root, file.node(root, 0), "H", root)


def twice(file: Damaged) -> None:
    """Give a branch page the same child twice."""
    page = file.first(1)
    child = struct.unpack_from("<H", file.data, page * SIZE + file.node(page, 0))[0]
    file.put(page, file.node(page, 1), "H", child)


def cut(file: Damaged) -> None:
    """Lose the file's end."""
    del file.data[-3 * SIZE :]


CASES: dict[str, tuple[Callable[[Damaged], None], str]] = {
    "magic": (metas(16, "I", 7), "not a readable LMDB: page 0 does not begin as LMDB's meta pages do"),
    "version": (metas(20, "I", 999), "not a readable LMDB: data format 999"),
    "meta kind": (metas(10, "H", 2), "page 0: it is no meta page"),
    "page size": (metas(40, "I", 1000), "page 0: pages of 1000 bytes"),
    "page sizes": (lambda file: file.put(1, 40, "I", 1024), "page 1: pages of 1024 bytes where page 0 says 512"),
    "duplicates": (metas(92, "H", 4), "several values a key"),
    "depth": (metas(94, "H", 99), "in a tree of 99 levels"),
    "shallow": (metas(94, "H", 3), "a branch page where a leaf page must be"),
    "deep": (metas(94, "H", 5), "a leaf page where a branch page must be"),
    "rows": (metas(120, "Q", 61), "60 rows below it, but the file says that it has 61"),
    "too many rows": (metas(120, "Q", 1 << 60), f"{1 << 60} rows in 20 leaf pages"),
    "root": (metas(128, "Q", 1 << 40), r"page 0: it names page \d+, but pages are 2 to"),
    "last page": (metas(136, "Q", 1 << 50), "pages of a tree, but"),
    "cut": (cut, "the copy is cut short"),
    "number": (in_page(2, 0, "Q", 5000), "it says that it is page 5000"),
    "kind": (in_page(2, 10, "H", 4), "an overflow page where a leaf page must be"),
    "unknown kind": (in_page(2, 10, "H", 0), "a page of the unknown kind 0x0 where a leaf page must be"),
    "free space": (in_page(2, 12, "H", 600), "its free space goes from 600 to"),
    "odd": (in_page(2, 12, "H", 21), "its free space goes from 21 to"),
    "no nodes": (in_page(2, 12, "H", 16), "a leaf page without nodes"),
    "offset": (in_page(2, 16, "H", 510), "a node at 510 of 512 bytes"),
    "low offset": (in_page(2, 16, "H", 4), "a node at 4 of 512 bytes"),
    "key": (in_node(2, 6, "H", 600), "a key of 600 bytes leaves it"),
    "value": (in_node(2, 0, "H", 60000), "a value of 60000 bytes leaves it"),
    "huge value": (in_node(2, 0, "I", 0xFFFFFFFF, 1), "it names page"),
    "key twice": (lambda file: file.put(file.first(2), 18, "H", file.node(file.first(2), 0)), "its keys do not ascend"),
    "database": (in_node(2, 4, "H", 2), "named databases or several values a key"),
    "child": (in_node(1, 0, "H", 60000), "it names page 60000"),
    "meta as child": (in_node(1, 0, "H", 1), "it names page 1,"),
    "far child": (in_node(1, 4, "H", 9), "it names page"),
    "cycle": (cycle, "where a branch page must be|where a leaf page must be|more leaf pages|rows below it"),
    "twice": (twice, "its keys do not ascend"),
    "order": (in_node(2, 8, "I", 0x39393939), "its keys do not ascend"),
    "overflow": (in_node(2, 12, "Q", 1 << 63, 1), "it names page"),
    "overflow kind": (in_page(4, 10, "H", 2), "a leaf page where an overflow page must be"),
    "overflow run": (in_page(4, 12, "I", 1), "1 pages cannot hold a value of 700 bytes"),
    "overflow number": (in_page(4, 0, "Q", 77), "it says that it is page 77"),
}


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
@pytest.mark.parametrize("name", CASES)
def test_damage_is_named(name: str, remote: bool, tmp_path: Path) -> None:
    """Each kind of lie is found where it is told."""
    damage, message = CASES[name]
    damaged = Damaged()
    damage(damaged)
    path = tmp_path / "data.mdb"
    path.write_bytes(damaged.data)
    url = f"counted://{path}" if remote else str(path)
    CountedFileSystem.reset()
    with pytest.raises(DataError, match=message) as caught:
        read_all(url)
    assert str(caught.value).startswith(f"{url}: ")
    assert caught.value.where["path"] == url
    assert re.search(r"page \d+", str(caught.value)) or name in ("version", "duplicates", "cut")
    assert CountedFileSystem.bytes_read <= 20 * len(damaged.data)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "data.mdb"


@hypothesis.settings(max_examples=150)
@hypothesis.given(seed=st.integers(0, 1 << 40), count=st.integers(1, 6), remote=st.booleans())
def test_any_bytes_are_rows_or_an_error(seed: int, count: int, remote: bool, scratch: Path) -> None:
    """Whatever the bytes are, reading ends, with rows or with a DataError."""
    rng = random.Random(seed)
    data = bytearray(Pages(SIZE).build(ROWS))
    heads = [page * SIZE for page in range(len(data) // SIZE)]
    for _ in range(count):
        # Near the beginnings of pages are the numbers that matter.
        at = rng.choice(heads) + (rng.randrange(64) if rng.random() < 0.7 else rng.randrange(SIZE))
        data[at] = rng.choice([0, 1, 2, 255, rng.randrange(256)])
    if rng.random() < 0.1:
        del data[rng.randrange(len(data)) :]
    scratch.write_bytes(data)
    try:
        found = read_all(f"counted://{scratch}" if remote else str(scratch))
    except DataError as error:
        assert str(scratch) in str(error)
    else:
        assert len(found) == len(ROWS)


def test_files_of_other_machines_and_kinds(tmp_path: Path) -> None:
    """What can be told of a file that is no LMDB of this format is told."""
    whole = bytes(Damaged().data)
    cases = {
        whole[4:]: "written by a 32-bit program",
        whole[:16] + whole[16:20][::-1] + whole[20:]: "written on a big-endian machine",
        b"x" * 10000: "does not begin as LMDB's",
        b"": "0 bytes; the copy is cut short, or this is something else",
        whole[:300]: "300 bytes; the copy is cut short",
    }
    for data, message in cases.items():
        (tmp_path / "data.mdb").write_bytes(data)
        with pytest.raises(DataError, match=message):
            LmdbTree(str(tmp_path / "data.mdb"))


def test_a_real_file_cut_anywhere(tmp_path: Path) -> None:
    """A copy that broke off is noticed by the count, wherever it ended."""
    file = write(tmp_path / "rows", {b"%05d" % i: bytes(3000 if i % 5 == 0 else 300) for i in range(300)})
    data = file.read_bytes()
    for length in range(0, len(data), 37 * 1024):
        file.write_bytes(data[:length])
        with pytest.raises(DataError, match="cut short"):
            read_all(str(file))
