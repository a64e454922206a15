"""LMDB files read by ranges of pages: the rows that LMDB itself reads, of little more than the pages they lie in."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from benchmarks.counted import register
from cosdask.data.lmdb_tree import LmdbTree
from tests.data.lmdb_files import Pages, expected, write

register()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def rows_of(url: str, step: int = 7, window: int = 8 << 20) -> list[tuple[bytes, bytes]]:
    """All rows, each block of the index read by itself from its place."""
    with LmdbTree(url, window) as tree:
        index = tree.index(tree.count(step=step))
        found = [
            (key, bytes(value))
            for block in index.blocks
            for records in tree.rows(block.place["at"], 0, block.rows)
            for key, value in zip(records.keys, records.values, strict=True)
        ]
        assert [block.place["key"] for block in index.blocks] == [found[start][0].hex() for start in index.starts[:-1]]
    return found


SIZES = st.one_of(st.integers(0, 40), st.integers(1990, 2080), st.integers(4060, 4110), st.integers(8150, 20000))


@hypothesis.settings(max_examples=40)
@hypothesis.given(data=st.data())
def test_rows_are_those_that_lmdb_reads(data: st.DataObject) -> None:
    """Any mix of sizes and keys, with rows deleted and pages used again; as folder or file, local or remote."""
    rng = random.Random(data.draw(st.integers(0, 1 << 30)))
    sizes = data.draw(st.lists(SIZES, max_size=8)) or [3]
    keys = {rng.randbytes(rng.choice([1, 2, 8, 40, 511])) for _ in range(data.draw(st.integers(1, 400)))}
    rows = {key: rng.randbytes(rng.choice(sizes)) for key in keys}
    deleted = [key for key in rows if rng.random() < data.draw(st.sampled_from([0.0, 0.3]))]
    with tempfile.TemporaryDirectory() as name:
        subdir = data.draw(st.booleans())
        file = write(Path(name) / "rows", rows, deleted, subdir)
        wanted = expected(Path(name) / "rows")
        url = str(file) if data.draw(st.booleans()) else f"counted://{file}"
        window = data.draw(st.sampled_from([1, 20000, 8 << 20]))
        assert rows_of(url, data.draw(st.integers(1, 9)), window) == wanted
        with LmdbTree(url, window) as tree:
            skip = data.draw(st.integers(0, max(0, len(wanted) - 1)))
            count = data.draw(st.integers(0, len(wanted) - skip))
            some = [bytes(value) for records in tree.rows(tree.first, skip, count) for value in records.values]
            assert some == [value for _, value in wanted[skip : skip + count]]
            # However the counting is shared out, the blocks are the same.
            blocks = [block for share in tree.shares(3) for block in tree.count(*share, step=5)]
            assert blocks == tree.count(step=5)


@pytest.mark.parametrize("size", [256, 4096, 32768])
def test_pages_of_other_sizes(folder: Path, size: int) -> None:
    """LMDB takes the size of its pages from the machine that wrote; the file says it. LMDB reads what we wrote here."""
    rng = random.Random(size)
    rows = [(b"%06d" % i, rng.randbytes(rng.choice([1, size // 8, size // 2, 3 * size]))) for i in range(60)]
    file = folder / "data.mdb"
    file.write_bytes(Pages(size).build(rows))
    if size >= 4096:
        assert expected(folder) == rows
    assert rows_of(str(file)) == rows
    assert rows_of(f"counted://{file}", step=1000, window=size) == rows


def test_empty_lmdb(folder: Path) -> None:
    """No rows are no error of the format."""
    file = write(folder / "rows", {})
    with LmdbTree(str(file)) as tree:
        assert tree.meta.rows == 0
        assert tree.count() == [] and tree.shares(4) == []
