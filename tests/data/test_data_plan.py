"""Invariants 3 and 4: every row once an epoch, position derived and never stored."""

from __future__ import annotations

from collections import Counter
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosdask.data import RowPlan, Segment, window
from cosdask.errors import ConfigError, DataError

SIZES = st.integers(1, 60)
RANKS = st.integers(1, 9)


def rows_of(segments: list[Segment]) -> list[tuple[int, int]]:
    """(epoch, row) of every position."""
    return [(segment.epoch, row) for segment in segments for row in range(segment.start, segment.stop)]


@given(rows=SIZES, ranks=RANKS, epoch=st.integers(0, 10**6))
def test_an_epoch_is_every_row_once_in_contiguous_ranges(rows: int, ranks: int, epoch: int) -> None:
    """The ranks' ranges of an epoch follow each other in rank order, cover all rows, and differ by one at most."""
    ranges = [RowPlan(rows, ranks).range(rank, epoch) for rank in range(ranks)]
    assert [r.start for r in ranges] == [0, *(r.stop for r in ranges[:-1])]
    assert ranges[-1].stop == rows
    assert max(r.rows for r in ranges) - min(r.rows for r in ranges) <= 1


@given(rows=SIZES, ranks=RANKS, batch=st.integers(1, 70), epochs=st.integers(1, 4))
def test_batches_straddle_epochs_and_lose_nothing(rows: int, ranks: int, batch: int, epochs: int) -> None:
    """Batch after batch, each rank's stream holds its rows of every epoch in order, none dropped or repeated."""
    plan = RowPlan(rows, ranks)
    seen: Counter[tuple[int, int]] = Counter()
    for rank in range(ranks):
        need = plan.position(rank, epochs)
        stream: list[tuple[int, int]] = []
        for first in range(0, need, batch):
            part = rows_of(plan.segments(rank, first, batch))
            assert len(part) == batch
            stream += part
        assert stream == sorted(stream)
        seen.update(stream[:need])
    assert seen == Counter({(epoch, row): 1 for epoch in range(epochs) for row in range(rows)})


@given(rows=SIZES, ranks=RANKS, first=st.integers(0, 500), count=st.integers(0, 50), data=st.data())
def test_a_resumed_stream_is_the_stream(rows: int, ranks: int, first: int, count: int, data: st.DataObject) -> None:
    """Starting at any position gives what reading from the beginning gives there."""
    plan = RowPlan(rows, ranks)
    rank = data.draw(st.integers(0, ranks - 1))
    whole = rows_of(plan.segments(rank, 0, first + count))
    assert rows_of(plan.segments(rank, first, count)) == whole[first:]


@given(rows=SIZES, ranks=RANKS, epoch=st.integers(0, 10**9))
def test_no_rank_runs_ahead(rows: int, ranks: int, epoch: int) -> None:
    """Over any number of epochs the ranks have read equally many rows, but for one."""
    plan = RowPlan(rows, ranks)
    positions = [plan.position(rank, epoch) for rank in range(ranks)]
    assert max(positions) - min(positions) <= 1
    assert sum(positions) == rows * epoch


@given(rows=SIZES, ranks=RANKS, changes=st.lists(st.tuples(st.integers(0, 40), RANKS, st.integers(0, 90)), max_size=4))
def test_groups_of_other_sizes_go_on_without_losing_a_row(
    rows: int, ranks: int, changes: list[tuple[int, int, int]]
) -> None:
    """However often the number of ranks changes in the middle of epochs, every epoch holds each row exactly once."""
    plan = RowPlan(rows, ranks)
    seen: Counter[tuple[int, int]] = Counter()
    for read, ranks_now, origin in changes:
        for rank in range(plan.ranks):
            seen.update(rows_of(plan.segments(rank, plan.origin, read)))
        plan = plan.after(plan.origin + read, ranks_now, origin)
    shares = [sum(segment.rows for segment in plan._left(rank)) for rank in range(plan.ranks)]
    assert max(shares) - min(shares) <= 1
    epochs = plan.first_epoch + 2
    for rank in range(plan.ranks):
        whole = rows_of(list(takewhile(lambda segment: segment.epoch < epochs, plan.stream(rank, plan.origin))))
        seen.update(whole)
        middle = len(whole) // 2
        assert rows_of(plan.segments(rank, plan.origin + middle, len(whole) - middle)) == whole[middle:]
    assert seen == {(epoch, row): 1 for epoch in range(epochs) for row in range(rows)}


def test_far_positions_cost_nothing() -> None:
    """Position 10^12 is found without walking there."""
    plan = RowPlan(1_281_167, 7)
    segments = plan.segments(3, 10**12, 256)
    assert sum(segment.rows for segment in segments) == 256
    epoch = segments[0].epoch
    assert plan.position(3, epoch) <= 10**12 < plan.position(3, epoch + 1)
    assert RowPlan(2, 5).segments(4, 10**12, 3)[0].epoch > 10**12


@given(first=st.integers(0, 10**12), count=st.integers(0, 200), rows=st.integers(1, 50), ranks=st.integers(1, 8))
def test_windows_cut_positions_evenly(first: int, count: int, rows: int, ranks: int) -> None:
    """Validation's rows: the ranks' parts follow each other, hold all positions once, and differ by one at most."""
    parts = [rows_of(window(first, count, rows, ranks, rank)) for rank in range(ranks)]
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert [row for part in parts for row in part] == [divmod(first + k, rows) for k in range(count)]


def test_what_cannot_work_is_refused() -> None:
    """No rows, no ranks and a rank that is none are errors at once."""
    with pytest.raises(DataError, match="no rows"):
        RowPlan(0, 1)
    with pytest.raises(DataError, match="no rows"):
        window(0, 1, 0, 1, 0)
    with pytest.raises(ConfigError, match="ranks"):
        RowPlan(1, 0)
    with pytest.raises(ConfigError, match="rank 2"):
        RowPlan(4, 2).segments(2, 0, 1)
