"""``-persistent``: rows of other filesystems on this machine's disk, never stale, never without bounds."""

from __future__ import annotations

import logging
import pickle
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from cosdask.data import Feed, RowPlan, Source, ZippedSource, kept_rows, open_source, write_lmdb, write_parquet
from cosdask.data.pieces import Piece, cut
from cosdask.data.plan import Segment
from cosdask.data.shuffle import Shuffle
from cosdask.errors import DataError

ROWS = 100
MORE = "channels: 1 height: 4 width: 4"
Open = Callable[..., Source]


def images(first: int = 0) -> np.ndarray:
    """Gray images whose pixels are all the row's number."""
    return (np.arange(ROWS)[:, None, None] + first + np.zeros((1, 4, 4))).astype(np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and cells of 16 rows."""
    monkeypatch.setenv("COSDASK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_rows, "_MOST", 16)
    return tmp_path / "cache" / "rows"


@pytest.fixture
def far(tmp_path: Path, make_layer: Callable[..., Any]) -> Open:
    """Opens rows in memory://: as an LMDB or parquet, written when they are not there yet."""
    fs = fsspec.filesystem("memory")

    def opened(kind: str = "memory_lmdb", options: dict[str, Any] | None = None, pixels: Any = None) -> Source:
        place = f"memory:/{tmp_path}/{kind}"
        name = f"{place}/data.mdb" if kind == "memory_lmdb" else f"{place}.parquet"
        if pixels is not None or not fs.exists(name):
            pixels = images() if pixels is None else pixels
            if kind == "parquet":
                write_parquet(name, pixels, range(ROWS), rows_per_group=30)
            else:
                write_lmdb(tmp_path / "lmdb", pixels, range(ROWS))
                fs.pipe(name, (tmp_path / "lmdb" / "data.mdb").read_bytes())
                shutil.rmtree(tmp_path / "lmdb")
        layer = make_layer(kind, name, 8, more=MORE)
        return open_source(layer, options={"persistent": True, **(options or {})})

    return opened


def forbid(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a read where the rows lie fails."""
    monkeypatch.setattr(source, "read", lambda *_: pytest.fail("read again"))


def numbers(source: Source, start: int, stop: int, shuffle: Shuffle | None = None) -> list[int]:
    """Rows as the feed reads them: each image's number, which must be its row's."""
    found: list[int] = []
    for pieces in cut(source, [Segment(0, start, stop)], 8, seed=1, shuffle=shuffle):
        for piece in pieces:
            assert isinstance(piece, Piece)
            decoded = source.decode(piece.rows, piece.draw)
            assert decoded["data"][:, 0, 0, 0].tolist() == piece.draw.rows.tolist()
            found += decoded["label"].ravel().astype(int).tolist()
    return found


@pytest.mark.parametrize("kind", ["memory_lmdb", "parquet"])
def test_what_was_read_once_is_not_fetched_again(kind: str, far: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any range gives its rows; then only what lies in other cells is read, and another process finds them too."""
    first = far(kind)
    for start, stop in [(20, 21), (5, 50), (0, 100), (99, 100), (31, 33)]:
        assert numbers(first, start, stop) == list(range(start, stop))
    for source in (far(kind), Source.from_spec(first.spec()), pickle.loads(pickle.dumps(first))):
        forbid(source, monkeypatch)
        assert numbers(source, 0, 100) == list(range(100))
        shuffle = Shuffle.of(source, seed=3)
        assert sorted(numbers(source, 0, 100, shuffle)) == list(range(100))
    with Feed(far(kind), RowPlan(ROWS, 2), 1, 8, seed=4) as kept, Feed(first, RowPlan(ROWS, 2), 1, 8, seed=4) as plain:
        for _ in range(20):
            np.testing.assert_array_equal(next(kept)["data"], next(plain)["data"])


def test_a_rank_keeps_little_more_than_its_own(far: Open, cache: Path) -> None:
    """Half of the rows are half of the cells, but for the ones that a border runs through."""
    assert numbers(far(), 50, 100) == list(range(50, 100))
    assert len(list(cache.iterdir())) == 4


def test_changed_data_are_read_anew(far: Open) -> None:
    """Invariant 3: nothing stale; a file with another time or transaction has other cells."""
    assert numbers(far(), 0, 100) == list(range(100))
    changed = far(pixels=images(first=100))
    batch = next(changed.batches(epochs=1))
    assert batch["data"][:, 0, 0, 0].tolist() == list(range(100, 108))


def test_rows_on_this_machine_are_read_where_they_lie(
    tmp_path: Path, cache: Path, make_layer: Callable[..., Any]
) -> None:
    write_parquet(tmp_path / "rows.parquet", images(), range(ROWS))
    source = open_source(make_layer("parquet", tmp_path / "rows.parquet", 8, more=MORE), options={"persistent": True})
    assert source.kept is None
    assert numbers(source, 0, 100) == list(range(100))
    assert not cache.exists()


def test_damaged_cells_are_read_again(far: Open, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A cell cut short or of other rows gives no rows; it is replaced."""
    source = far()
    assert numbers(source, 0, 48) == list(range(48))
    cut_short, swapped, other = sorted(cache.iterdir())[:3]
    cut_short.write_bytes(cut_short.read_bytes()[:-20])
    swapped.write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert numbers(far(), 0, 48) == list(range(48))
    assert "read again where they lie" in caplog.text
    assert {cut_short.stat().st_size, swapped.stat().st_size} == {other.stat().st_size}
    assert not list(cache.glob(".*"))


def test_bad_rows_are_named_and_others_of_their_cell_given(
    tmp_path: Path, far: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that cannot be read spoils no other, and its cell is not kept."""
    source = far()
    plain = type(source).read

    def read(self: Source, start: int, stop: int, chunk: int = 1024) -> Any:
        if start <= 20 < stop:
            yield from plain(self, start, 20, chunk)
            raise DataError("row 20 is damaged", row=20)
        yield from plain(self, start, stop, chunk)

    monkeypatch.setattr(type(source), "read", read)
    for start, stop in [(16, 20), (21, 32), (30, 40), (0, 20)]:
        assert numbers(source, start, stop) == list(range(start, stop))
    with pytest.raises(DataError, match="row 20 is damaged"):
        numbers(source, 0, 100)
    skipping = far(options={"on_bad_rows": "skip"})
    found = np.concatenate([batch["label"].ravel() for batch in skipping.batches(epochs=1)])
    assert found.tolist() == [row for row in range(100) if row != 20]


def test_layers_side_by_side(far: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zipped layers keep each its own rows."""
    one, two = far(), far("parquet")
    two.layer.top[:] = ["data2", "label2"]
    zipped = ZippedSource([one, two])
    for epoch in range(2):
        if epoch:
            forbid(one, monkeypatch)
            forbid(two, monkeypatch)
        labels = [batch["label2"].ravel() for batch in zipped.batches(epochs=1)]
        assert np.concatenate(labels).tolist() == list(range(100))


def test_the_disk_is_not_filled(
    far: Open, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At most half of what is free; other data's cells go first, and rows come in any case."""
    assert numbers(far(), 0, 100) == list(range(100))
    old = set(cache.iterdir())
    size = sum(path.stat().st_size for path in old)
    free = namedtuple("free", "total used free")
    monkeypatch.setattr(kept_rows, "_LOOK", 1)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: free(0, 0, 2 * size - sum(f.stat().st_size for f in cache.iterdir()))
    )
    with caplog.at_level(logging.WARNING):
        assert numbers(far("parquet"), 0, 100) == list(range(100))
        assert not old & set(cache.iterdir()) or sum(f.stat().st_size for f in cache.iterdir()) <= size
        monkeypatch.setattr(shutil, "disk_usage", lambda _: free(0, 0, 0))
        assert numbers(far(pixels=images()), 0, 100) == list(range(100))
    assert caplog.text.count("no more rows are kept") == 1
