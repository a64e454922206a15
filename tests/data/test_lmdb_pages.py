"""LMDB files read by ranges of pages: the rows that LMDB itself reads, of little more than the pages they lie in."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import hypothesis
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import strategies as st

from benchmarks.counted import CountedFileSystem, register
from cosdask.data import Feed, RowPlan, Source, lmdb_tree, open_source, write_lmdb
from cosdask.data.lmdb_tree import LmdbTree
from cosdask.data.pieces import Piece, cut
from cosdask.data.shuffle import Shuffle
from cosdask.errors import DataError, StorageError
from cosdask.proto import caffe_pb2
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


@hypothesis.settings(max_examples=25)
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


def layer(source: object, batch: int = 10) -> caffe_pb2.LayerParameter:
    text = f'name: "d" type: "Data" top: "data" top: "label" data_param {{ source: "{source}" backend: LMDB '
    return text_format.Parse(text + f"batch_size: {batch} }}", caffe_pb2.LayerParameter())


def forget(patch: pytest.MonkeyPatch) -> None:
    """Begin as a process that has read nothing yet."""
    patch.setattr(lmdb_tree, "_CACHE", lmdb_tree._Branches())
    patch.setattr(lmdb_tree, "_METAS", lmdb_tree._Metas())
    CountedFileSystem.reset()


@pytest.mark.parametrize(("rows", "size"), [(24000, 28), (4000, 56)])
def test_each_rank_reads_its_share(rows: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 5: four ranks read at most 1.1 times their share an epoch; rows in leaf pages, and in overflow pages."""
    images = np.random.default_rng(0).integers(0, 256, (rows, size, size), dtype=np.uint8)
    write_lmdb(tmp_path / "rows", images, range(rows))
    share = (tmp_path / "rows" / "data.mdb").stat().st_size / 4
    spec = open_source(layer(f"counted://{tmp_path}/rows", 100)).spec()
    labels = []
    for rank in range(4):
        forget(monkeypatch)
        with Feed(Source.from_spec(spec), RowPlan(rows, 4), rank, batch_size=100, depth=1, threads=1) as feed:
            labels += [next(feed)["label"] for _ in range(rows // 400)]
        # The feed reads ahead into the next epoch, so what is measured is the segment itself.
        forget(monkeypatch)
        segment = RowPlan(rows, 4).range(rank, 0)
        assert sum(part.num_rows for part in Source.from_spec(spec).stream(segment.start, segment.stop)) == rows // 4
        assert CountedFileSystem.bytes_read <= 1.1 * share
        assert CountedFileSystem.requests <= 30
    np.testing.assert_array_equal(np.concatenate(labels), np.arange(rows))


def test_shuffled_ranks_read_little_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is fetched once, and the windows that two ranks share are small parts of the file."""
    write_lmdb(tmp_path / "rows", np.zeros((16000, 28, 28), np.uint8), range(16000))
    monkeypatch.setattr("cosdask.data.lmdb._LEAST_WINDOW", 100_000)
    share = (tmp_path / "rows" / "data.mdb").stat().st_size / 4
    spec = open_source(layer(f"counted://{tmp_path}/rows", 100), "TRAIN", options={"shuffle": True}).spec()
    labels = []
    for rank in range(4):
        forget(monkeypatch)
        source = Source.from_spec(spec)
        shuffle = Shuffle.of(source, seed=3)
        segment = RowPlan(16000, 4, shuffle).range(rank, 0)
        pieces = [piece for batch in cut(source, [segment], 100, 0, shuffle) for piece in batch]
        labels += [source.decode(piece.rows, piece.draw)["label"] for piece in pieces if isinstance(piece, Piece)]
        assert CountedFileSystem.bytes_read <= 1.15 * share
    found = np.concatenate(labels)
    assert not (found[:100] == np.arange(100)).all()
    np.testing.assert_array_equal(np.sort(found), np.arange(16000))


def test_the_first_row_costs_a_few_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape of the tops is known without counting rows or reading far."""
    write_lmdb(tmp_path / "rows", np.zeros((9000, 20, 20), np.uint8), [0] * 9000)
    forget(monkeypatch)
    monkeypatch.setattr(lmdb_tree.LmdbTree, "count", lambda *_, **__: pytest.fail("counted"))
    source = open_source(layer(f"counted://{tmp_path}/rows"))
    assert source.tops["data"] == (10, 1, 20, 20)
    assert source.rows == 9000
    assert CountedFileSystem.bytes_read < 100_000


def test_in_memory_filesystem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any filesystem of fsspec will do; the count is kept until the file changes."""
    monkeypatch.setenv("COSDASK_CACHE_DIR", str(tmp_path / "cache"))
    fs = fsspec.filesystem("memory")
    for rows in (30, 40):
        write_lmdb(tmp_path / f"rows{rows}", np.zeros((rows, 4, 4), np.uint8), range(rows))
        fs.pipe("/lmdb-test/data.mdb", (tmp_path / f"rows{rows}" / "data.mdb").read_bytes())
        for url in ("memory://lmdb-test", "memory://lmdb-test/data.mdb"):
            source = open_source(layer(url))
            assert source.index().rows == rows
            labels = np.concatenate([batch["label"] for batch in source.batches(epochs=1)])
            np.testing.assert_array_equal(labels, np.arange(rows, dtype=np.float32))
    with monkeypatch.context() as patch:
        patch.setattr(lmdb_tree.LmdbTree, "count", lambda *_, **__: pytest.fail("counted again"))
        assert open_source(layer("memory://lmdb-test")).index().rows == 40
    with pytest.raises(StorageError, match=r"memory://lmdb-tset.*no such LMDB"):
        open_source(layer("memory://lmdb-tset")).index()
    fs.pipe("/lmdb-none/other", b"")
    with pytest.raises(DataError, match=r"memory://lmdb-none: not an LMDB, the folder holds no data\.mdb"):
        open_source(layer("memory://lmdb-none")).index()


def test_a_file_that_changed_since_it_was_counted(tmp_path: Path) -> None:
    """Rows of another file are never given for those that were counted."""
    write_lmdb(tmp_path / "rows", np.zeros((30, 4, 4), np.uint8), range(30))
    spec = open_source(layer(tmp_path / "rows")).spec()
    write_lmdb(tmp_path / "more", np.zeros((31, 4, 4), np.uint8), range(31))
    (tmp_path / "more" / "data.mdb").replace(tmp_path / "rows" / "data.mdb")
    with pytest.raises(DataError, match="30 rows were counted, 31 read"):
        next(Source.from_spec(spec).batches())
