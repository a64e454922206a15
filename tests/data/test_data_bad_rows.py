"""Invariant 3: a row that cannot be read is an error naming it; skipped rows are counted, listed and filled up."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosdask.data import Feed, FrameSource, RowPlan, Segment, Shuffle, Skips, open_source, take, write_lmdb
from cosdask.data.index import Block, Index
from cosdask.data.skips import LISTED
from cosdask.errors import DataError
from cosdask.proto import caffe_pb2

SIZES = "channels: 1 height: 1 width: 1"


def picture(size: int = 16, ending: str = ".jpg") -> bytes:
    """An encoded color image, a gradient."""
    ramp = np.linspace(0, 255, size * size * 3).reshape(size, size, 3).astype(np.uint8)
    return bytes(cv2.imencode(ending, ramp)[1].tobytes())


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims ``side`` times ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def encoded(data: bytes, label: int = 0) -> bytes:
    """A Datum with an encoded image."""
    return bytes(caffe_pb2.Datum(data=data, label=label, encoded=True).SerializeToString())


def raw(size: int, claimed: int | None = None) -> bytes:
    """A Datum with raw pixels, which may claim another size."""
    side = size if claimed is None else claimed
    return bytes(
        caffe_pb2.Datum(channels=3, height=side, width=side, data=bytes(3 * size * size), label=1).SerializeToString()
    )


BAD_VALUES = {
    "no Datum": (b"\x22\xff", "not a Datum"),
    "Datum cut short": (encoded(picture())[:-40], "not a Datum"),
    "JPEG cut short": (encoded(picture(64)[:-60]), "cut short"),
    "no image": (encoded(b"nothing"), "no image"),
    "empty image": (encoded(b""), "no bytes"),
    "bomb": (encoded(bomb(60000)), "too many pixels|cannot be decoded"),
    "other channels": (encoded(bytes(cv2.imencode(".png", np.zeros((16, 16), np.uint8))[1])), "1 channels"),
    "smaller than the crop": (encoded(picture(7)), "smaller than crop_size 8"),
    "size that lies": (raw(16, claimed=40000), "768 values for 3 x 40000"),
    "nothing in it": (b"", "0 values"),
}


def lmdb_of(folder: Path, values: list[bytes]) -> Path:
    """An LMDB of any values, keys in order."""
    folder.mkdir()
    with lmdb.open(str(folder), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for row, value in enumerate(values):
            transaction.put(b"%08d" % row, value)
    return folder


@pytest.mark.parametrize("kind", BAD_VALUES)
def test_a_bad_row_is_named_or_skipped(kind: str, tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """Source, partition, row, id and column in the error; with ``skip`` the others make the batches."""
    value, reason = BAD_VALUES[kind]
    good = [encoded(picture(), label) for label in range(6)]
    path = lmdb_of(tmp_path / "lmdb", [*good[:4], value, *good[4:]])
    layer = make_layer("lmdb", path, 7, "crop_size: 8")
    strict = open_source(layer, "TRAIN", options={"partitions": 3})
    with Feed(strict, RowPlan(7, 1), 0, 7) as feed, pytest.raises(DataError, match=reason) as caught:
        next(feed)
    where = caught.value.where
    assert (where["path"], where["row"], where["id"], where["partition"]) == (str(path), 4, "00000004", 2)
    assert str(path) in str(caught.value) and 'row 4 (id "00000004")' in str(caught.value)
    assert "partition 2" in str(caught.value) and where["column"] == "data"

    lenient = open_source(layer, "TRAIN", options={"on_bad_rows": "skip"})
    with Feed(lenient, RowPlan(7, 1), 0, 7) as feed:
        assert sorted(next(feed)["label"].tolist()) == [0, 0, 1, 2, 3, 4, 5]
    assert [bad.row for bad in lenient.skips.rows] == [4]
    ids = [
        name
        for names, _ in take(open_source(layer, options={"on_bad_rows": "skip"}), [Segment(0, 0, 7)], 4)
        for name in names
    ]
    assert ids == [f"{row:08d}" for row in (0, 1, 2, 3, 5, 6)]


@pytest.mark.parametrize(
    ("column", "cells", "reason"),
    [
        ("label", ["1", "two", "3"], "'two' in the column label is not a whole number"),
        ("label", ["1", None, "3"], "the column label is empty"),
        ("label", [1.0, 2.5, 3.0], "'label'"),
        ("height", ["1", "tall", "1"], "'height'"),
        ("data", [b"a", b"too long", b"c"], "8 values for 1 x 1 x 1"),
        ("data", [b"a", None, b"c"], "0 values for 1 x 1 x 1"),
    ],
)
def test_a_bad_cell_is_named_or_skipped(
    column: str, cells: list[object], reason: str, tmp_path: Path, make_layer: Callable[..., Any]
) -> None:
    """Wrong types, labels that are no numbers, arrays too long or short: the very row, whatever its neighbors."""
    columns: dict[str, Any] = {"id": ["a", "b", "c"], "label": [1, 2, 3], "data": [b"a", b"b", b"c"]}
    columns[column] = cells
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    layer = make_layer("parquet", tmp_path / "rows.parquet", 3, more=SIZES)
    with pytest.raises(DataError, match=reason) as caught:
        next(open_source(layer).batches(1))
    assert (caught.value.where["row"], caught.value.where["column"], caught.value.where["partition"]) == (1, column, 0)
    source = open_source(layer, options={"on_bad_rows": "skip"})
    assert next(source.batches(1))["label"].ravel().tolist() == [1, 3]
    assert [(bad.row, bad.column) for bad in source.skips.rows] == [(1, column)]


def test_the_first_row_may_be_bad(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """The images' shape comes from the first good row; without one the error says so."""
    path = lmdb_of(tmp_path / "one", [b"\xff", encoded(b"x"), encoded(picture(6)), encoded(picture(12), 5)])
    layer = make_layer("lmdb", path, 4, "crop_size: 8")
    with pytest.raises(DataError, match="row 0"):
        next(open_source(layer).batches())
    source = open_source(layer, options={"on_bad_rows": "skip"})
    assert source.tops["data"] == (4, 3, 8, 8)
    assert next(source.batches())["label"].tolist() == [5, 5, 5, 5]
    assert next(source.batches(1))["label"].tolist() == [5]
    nothing = lmdb_of(tmp_path / "none", [b"\xff", encoded(b"x")])
    with pytest.raises(DataError, match=r"none of the first .* rows"):
        next(open_source(make_layer("lmdb", nothing, 4), options={"on_bad_rows": "skip"}).batches())


class Damaged(FrameSource):
    """Rows of which some fail when they are read, others when they are decoded."""

    kind = ""
    sizes: list[int]
    unreadable: set[int]
    window = 1

    def _count(self) -> Index:
        starts = np.cumsum([0, *self.sizes]).tolist()
        return Index(tuple(Block(n, {"start": first}) for n, first in zip(self.sizes, starts, strict=False) if n))

    @property
    def shuffle_window(self) -> int:
        return self.window

    def read(self, start: int, stop: int, chunk: int = 1024) -> Iterator[pa.RecordBatch]:
        """A chunk with an unreadable row fails as a whole."""
        for rows in super().read(start, stop, chunk):
            for row in range(start, start + rows.num_rows):
                if row in self.unreadable:
                    raise DataError(f"row {row} cannot be read", row=row, path="here", id=f"r{row}")
            yield rows
            start += rows.num_rows


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 8), min_size=1, max_size=6).filter(any),
    bad=st.sets(st.integers(0, 47), max_size=20),
    split=st.integers(0, 48),
    ranks=st.integers(1, 3),
    batch=st.integers(1, 9),
    shuffle=st.booleans(),
    window=st.integers(1, 20),
    data=st.data(),
)
def test_good_rows_come_once_an_epoch_and_bad_ones_never(
    sizes: list[int],
    bad: set[int],
    split: int,
    ranks: int,
    batch: int,
    shuffle: bool,
    window: int,
    data: st.DataObject,
    make_layer: Callable[..., Any],
) -> None:
    """Batches are whole, good rows stand in for bad ones, and a feed that begins later gives the same batches."""
    rows = sum(sizes)
    bad = {row for row in bad if row < rows}
    cells = [b"bad!" if row in bad and row >= split else bytes([row]) for row in range(rows)]
    table = pa.table({"id": [f"r{i}" for i in range(rows)], "label": range(rows), "data": cells})
    layer = make_layer("parquet", "unused", 3, more=SIZES)
    source = Damaged(layer, frame=table, options={"on_bad_rows": "skip"})
    source.sizes, source.window, source.unreadable = sizes, window, {row for row in bad if row < split}
    plan = RowPlan(rows, ranks, Shuffle.of(source, 3) if shuffle else None)
    if len(bad) == rows:
        with Feed(source, plan, 0, batch, threads=1) as feed, pytest.raises(DataError, match=r"none of \d+ rows"):
            next(feed)
        return
    seen: Counter[int] = Counter()
    for rank in range(ranks):
        need = -(-plan.position(rank, 2) // batch)
        with Feed(source, plan, rank, batch, threads=1, seed=3) as feed:
            found = [next(feed)["label"].ravel().astype(int).tolist() for _ in range(need)]
        assert all(len(labels) == batch for labels in found)
        seen.update(label for labels in found for label in labels)
        if need:
            first = data.draw(st.integers(0, need - 1))
            with Feed(source, plan, rank, batch, first_batch=first, threads=1, seed=3) as feed:
                assert next(feed)["label"].ravel().astype(int).tolist() == found[first]
    assert not bad & set(seen)
    assert all(seen[row] >= 2 for row in range(rows) if row not in bad)
    assert {skip.row for skip in source.skips.rows} == bad

    skips = Skips()
    batches = list(take(source, [Segment(0, 0, rows)], batch, skips=skips))
    assert [name for names, _ in batches for name in names] == [f"r{row}" for row in range(rows) if row not in bad]
    assert all(len(names) == batch for names, _ in batches[:-1])
    assert skips.count == len(bad)


def test_the_list_is_bounded_and_counts_go_on() -> None:
    """A million bad rows are a number, not a list of a million."""
    skips = Skips()
    for epoch in range(2):
        for row in range(LISTED + 50):
            skips.add(DataError("x" * 9999, row=row, path="here"))
        assert skips.count == (epoch + 1) * (LISTED + 50)
    assert len(skips.news()) == LISTED
    assert skips.news() == []
    assert max(len(bad.reason) for bad in skips.rows) <= 500


def test_whole_jpegs_may_be_followed_by_anything(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """Padding behind a picture's end is no damage."""
    write_lmdb(tmp_path / "lmdb", [picture(), picture() + b"\0" * 7, picture() + b"more"], [0, 1, 2])
    found = next(open_source(make_layer("lmdb", tmp_path / "lmdb", 3)).batches(1))["data"]
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()
