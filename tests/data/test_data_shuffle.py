"""Invariants 3 and 4 with shuffling: every row once an epoch, whoever reads it; the order is f(seed, epoch)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

import cosdask
from cosdask.data import (
    Feed,
    FrameSource,
    RowPlan,
    Segment,
    Shuffle,
    ZippedSource,
    get_source,
    open_source,
    write_parquet,
)
from cosdask.data.index import Block, Index
from cosdask.data.pieces import cut
from cosdask.errors import ConfigError

SIZES = "channels: 1 height: 1 width: 1"
BLOCKS = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


def starts_of(sizes: list[int]) -> tuple[int, ...]:
    """First rows of the blocks that hold rows, then all rows."""
    return tuple(int(start) for start in np.unique(np.cumsum([0, *sizes])))


class Parts(FrameSource):
    """Rows in partitions of given sizes, empty ones among them; remembers what is read."""

    kind = ""
    sizes: list[int]
    window = 1
    piece: int | None = None

    def _count(self) -> Index:
        starts = np.cumsum([0, *self.sizes]).tolist()
        return Index(
            tuple(Block(size, {"start": start}) for size, start in zip(self.sizes, starts, strict=False) if size)
        )

    @property
    def shuffle_window(self) -> int:
        return self.window

    @property
    def shuffle_piece(self) -> int | None:
        return self.piece


def parts(make_layer: Callable[..., Any], sizes: list[int], window: int = 1, piece: int | None = None) -> Parts:
    """Row i holds the pixel i and the label i."""
    rows = sum(sizes)
    table = pa.table({"label": range(rows), "data": [bytes([i]) for i in range(rows)]})
    source = Parts(make_layer("parquet", "unused", 3, more=SIZES), frame=table)
    source.sizes, source.window, source.piece = sizes, window, piece
    return source


@given(sizes=BLOCKS, window=st.integers(1, 30), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**9), data=st.data())
def test_an_epoch_is_a_permutation_that_any_part_agrees_with(
    sizes: list[int], window: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    """Every row once; asking for a part of the order gives that part of the whole: what resuming rests on."""
    order = Shuffle(starts_of(sizes), window, seed)
    rows = sum(sizes)
    whole = order.rows(epoch, 0, rows)
    assert sorted(whole.tolist()) == list(range(rows))
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    assert order.rows(epoch, start, stop).tolist() == whole[start:stop].tolist()


def test_order_is_that_of_seed_and_epoch_for_ever() -> None:
    """The order is part of what a snapshot stands for: it must not change with a version of anything."""
    order = Shuffle((0, 3, 6, 9, 10), window=4, seed=7)
    assert order.rows(0, 0, 10).tolist() == ORDER_OF_SEED_7
    assert order.rows(1, 0, 10).tolist() != ORDER_OF_SEED_7
    assert Shuffle((0, 3, 6, 9, 10), window=4, seed=8).rows(0, 0, 10).tolist() != ORDER_OF_SEED_7


ORDER_OF_SEED_7 = [3, 5, 9, 4, 2, 6, 1, 0, 7, 8]


def test_blocks_and_rows_are_both_mixed() -> None:
    """Epochs differ in every respect: far rows come near each other, and no row keeps its place."""
    order = Shuffle(tuple(range(0, 4097, 64)), window=512, seed=1)
    first, second = order.rows(0, 0, 4096), order.rows(1, 0, 4096)
    for rows in (first, second):
        blocks_in_a_window = [len(set(rows[k : k + 512] // 64)) for k in range(0, 4096, 512)]
        assert min(blocks_in_a_window) == 8
        assert np.abs(rows[:512].astype(float).mean() - 2048) < 1024  # a window is drawn from everywhere
        assert (np.diff(rows) == 1).mean() < 0.05
    assert (first == second).mean() < 0.01


@settings(max_examples=40, deadline=None)
@given(
    sizes=BLOCKS,
    ranks=st.integers(1, 5),
    batch=st.integers(1, 12),
    epochs=st.integers(1, 3),
    shuffle=st.booleans(),
    window=st.integers(1, 20),
    piece=st.sampled_from([None, 1, 4]),
    resumed=st.integers(0, 6),
)
def test_each_row_once_an_epoch(
    sizes: list[int],
    ranks: int,
    batch: int,
    epochs: int,
    shuffle: bool,
    window: int,
    piece: int | None,
    resumed: int,
    make_layer: Callable[..., Any],
) -> None:
    """Empty partitions, fewer rows than a batch, fewer partitions than workers: real feeds drop and repeat nothing.

    A feed that begins at a later batch gives what the first one gives there.
    """
    source = parts(make_layer, sizes, window, piece)
    plan = RowPlan(source.rows, ranks, Shuffle.of(source, seed=5) if shuffle else None)
    seen: Counter[int] = Counter()
    for rank in range(ranks):
        need = plan.position(rank, epochs)
        batches = -(-need // batch)
        with Feed(source, plan, rank, batch, threads=1, seed=5) as feed:
            stream = [row for _ in range(batches) for row in next(feed)["label"].ravel().astype(int).tolist()]
        first = min(resumed, batches)
        if first < batches:
            with Feed(source, plan, rank, batch, first_batch=first, threads=1, seed=5) as feed:
                assert next(feed)["label"].ravel().astype(int).tolist() == stream[first * batch : (first + 1) * batch]
        seen.update(stream[:need])
        if shuffle:
            segments = plan.segments(rank, 0, need)
            wanted = [row for s in segments for row in plan.shuffle.rows(s.epoch, s.start, s.stop).tolist()]
            assert stream[:need] == wanted
    assert seen == Counter(dict.fromkeys(range(source.rows), epochs))


def test_crops_belong_to_the_row_wherever_it_comes(lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """Invariant 4: crop and mirror are f(seed, epoch, row), so shuffling moves pictures and changes none."""
    layer = make_layer("lmdb", lmdb_path, 23, "crop_size: 6 mirror: true")
    plain, mixed = open_source(layer, "TRAIN"), open_source(layer, "TRAIN", options={"shuffle": True})
    assert mixed.shuffled and not plain.shuffled
    order = Shuffle.of(mixed, seed=3)
    with (
        Feed(plain, RowPlan(23, 1), 0, 23, seed=3) as ordered,
        Feed(mixed, RowPlan(23, 1, order), 0, 23, seed=3) as shuffled,
    ):
        for epoch in range(2):
            one, two, rows = next(ordered), next(shuffled), order.rows(epoch, 0, 23)
            assert rows.tolist() != list(range(23))
            for name in one:
                np.testing.assert_array_equal(two[name], one[name][rows])


def test_a_large_row_group_is_read_through_once(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """Windows go on in a block where the last one stopped: no row of an epoch is read twice by a rank that is alone."""
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    write_parquet(tmp_path / "rows.parquet", images, range(40), rows_per_group=20)
    source = open_source(make_layer("parquet", tmp_path / "rows.parquet", 4, more=SIZES), options={"shuffle": True})
    opened: list[object] = []
    original = source.table.read_block
    source.table.read_block = lambda *arguments: opened.append(arguments) or original(*arguments)
    order = Shuffle(tuple(source.index().starts), window=7, seed=0)
    (pieces,) = cut(source, [Segment(0, 0, 40)], 40, 0, order)
    assert [row for piece in pieces for row in piece.draw.rows] == order.rows(0, 0, 40).tolist()
    assert len(opened) == 2


def test_batches_follow_the_layer_and_the_option(lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """``shuffle`` mixes the rows of TRAIN only; zipped sources stay side by side."""
    layer = make_layer("lmdb", lmdb_path, 23)
    options = {"shuffle": True, "seed": 4}
    train = open_source(layer, "TRAIN", options=options)
    first, second = [next(train.batches(1))["label"].tolist() for _ in range(2)]
    assert first == second != sorted(first)
    assert not open_source(layer, "TEST", options=options).shuffled
    zipped = ZippedSource([train, open_source(layer, "TRAIN")])
    assert zipped.shuffled and zipped.shuffle_piece == train.shuffle_piece
    raw = next(zipped.batches(1))
    assert sorted(raw["label"].tolist()) == sorted(first)


def test_options_reach_the_source(tmp_path: Path, lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """``Config(shuffle=True)`` is known to ``get_source``."""
    layer = text_format.MessageToString(make_layer("lmdb", lmdb_path, 4))
    (tmp_path / "net.prototxt").write_text(f"layer {{ {layer} }}")
    (tmp_path / "solver.prototxt").write_text(f'net: "{tmp_path}/net.prototxt"')
    config = cosdask.Config(conf=str(tmp_path / "solver.prototxt"), shuffle=True)
    assert get_source(config, phase="TRAIN").shuffled
    assert not get_source(config, phase="TEST").shuffled


def test_orders_that_cannot_be_are_refused() -> None:
    """A window of nothing, blocks of nothing, and an order of another source's rows."""
    with pytest.raises(ConfigError, match="window"):
        Shuffle((0, 4), 0, 1)
    with pytest.raises(ConfigError, match="blocks"):
        Shuffle((0, 4, 4), 3, 1)
    with pytest.raises(ConfigError, match="order of 4 rows"):
        RowPlan(5, 1, Shuffle((0, 4), 3, 1))
