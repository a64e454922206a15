"""The feed: ordered, bounded, whole batches over epochs, errors where the consumer looks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosdask.data import Feed, FrameSource, RowPlan, Segment, Source, open_source, take, window
from cosdask.errors import DataError, DeadlineError

SIZES = "channels: 1 height: 1 width: 1"


def numbered(rows: int, make_layer: Callable[..., Any], batch: int = 4) -> Source:
    """Row i holds the pixel i and the label i."""
    table = pa.table(
        {"id": [f"r{i}" for i in range(rows)], "label": range(rows), "data": [bytes([i]) for i in range(rows)]}
    )
    return FrameSource(make_layer("parquet", "unused", batch, more=SIZES), frame=table)


def labels(raw: dict[str, np.ndarray]) -> list[int]:
    """The row numbers of a batch; pixels must agree with them."""
    np.testing.assert_array_equal(raw["data"].ravel(), raw["label"].ravel().astype(np.uint8))
    return raw["label"].ravel().astype(int).tolist()


@settings(max_examples=40)
@given(rows=st.integers(1, 25), ranks=st.integers(1, 5), batch=st.integers(1, 12), first=st.integers(0, 9))
def test_batches_are_the_plans_positions(
    rows: int, ranks: int, batch: int, first: int, make_layer: Callable[..., Any]
) -> None:
    """Batch k holds positions k*B to (k+1)*B of the rank's stream, also after a resume, rows < batch or ranks."""
    source = numbered(rows, make_layer)
    plan = RowPlan(rows, ranks)
    for rank in range(ranks):
        with Feed(source, plan, rank, batch, first_batch=first) as feed:
            for k in range(first, first + 3):
                segments = plan.segments(rank, k * batch, batch)
                wanted = [row for segment in segments for row in range(segment.start, segment.stop)]
                assert labels(next(feed)) == wanted
            assert feed.rows == 3 * batch


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_threads_change_nothing(threads: int | None, lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """Order, crops and mirrors are the same with any number of threads."""
    source = open_source(make_layer("lmdb", lmdb_path, 5, "crop_size: 6 mirror: true"), "TRAIN")
    plan = RowPlan(source.rows, 1)
    with (
        Feed(source, plan, 0, 5, threads=threads, seed=9) as feed,
        Feed(source, plan, 0, 5, threads=2, seed=9) as other,
    ):
        for _ in range(12):
            left, right = next(feed), next(other)
            assert set(left) == {"data", "data:mirror", "label"}
            for name in left:
                np.testing.assert_array_equal(left[name], right[name])


def test_epochs_and_seeds_differ_and_a_resume_does_not(lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """Invariant 4: crops are f(seed, epoch, row); a feed begun later gives what the first would have."""
    source = open_source(make_layer("lmdb", lmdb_path, 23, "crop_size: 4"), "TRAIN")
    plan = RowPlan(23, 1)

    def images(first: int, seed: int) -> np.ndarray:
        with Feed(source, plan, 0, 23, first_batch=first, seed=seed) as feed:
            return next(feed)["data"]

    with Feed(source, plan, 0, 23, seed=1) as feed:
        first, second = next(feed)["data"], next(feed)["data"]
    np.testing.assert_array_equal(images(1, 1), second)
    assert (first != second).any()
    assert (images(0, 2) != first).any()


@settings(max_examples=40)
@given(rows=st.integers(1, 25), batch=st.integers(1, 12), ranks=st.integers(1, 5), count=st.integers(0, 60))
def test_take_gives_each_row_of_its_segments_once(
    rows: int, batch: int, ranks: int, count: int, make_layer: Callable[..., Any]
) -> None:
    """Rows in = rows out, ids with them, the last batch short."""
    source = numbered(rows, make_layer)
    seen: list[int] = []
    for rank in range(ranks):
        segments = window(3, count, rows, ranks, rank)
        batches = list(take(source, segments, batch))
        assert all(len(ids) == batch for ids, _ in batches[:-1])
        for ids, raw in batches:
            assert ids == [f"r{row}" for row in labels(raw)]
            seen += labels(raw)
    assert seen == [(3 + k) % rows for k in range(count)]


def test_a_bad_row_reaches_the_consumer_after_the_good_batches(make_layer: Callable[..., Any]) -> None:
    """The error names the row; batches before it are delivered; afterwards the feed has ended."""
    data = [bytes([i]) for i in range(12)]
    data[9] = b"too long"
    source = FrameSource(make_layer("parquet", "x", 4, more=SIZES), frame=pa.table({"label": range(12), "data": data}))
    for threads in (1, 3):
        with Feed(source, RowPlan(12, 1), 0, 4, threads=threads) as feed:
            assert labels(next(feed)) == [0, 1, 2, 3]
            assert labels(next(feed)) == [4, 5, 6, 7]
            with pytest.raises(DataError) as caught:
                next(feed)
            assert caught.value.where["row"] == 9
            with pytest.raises(StopIteration):
                next(feed)


class Gated(FrameSource):
    """Counts what is read, and waits at a gate."""

    kind = ""

    def open_gate(self, rows: int) -> None:
        """Let reading go on to this row."""
        self.gate.release(rows)

    def read(self, start: int, stop: int, chunk: int = 1024) -> Iterator[pa.RecordBatch]:
        """One row at a time, through the gate."""
        for row in range(start, stop):
            if not self.gate.acquire(timeout=30):
                return
            self.count += 1
            yield from super().read(row, row + 1, chunk)


@pytest.fixture
def gated(make_layer: Callable[..., Any]) -> Gated:
    """Ten rows behind a closed gate."""
    table = pa.table({"label": range(10), "data": [bytes([i]) for i in range(10)]})
    source = Gated(make_layer("parquet", "x", 1, more=SIZES), frame=table)
    source.gate, source.count = threading.Semaphore(0), 0
    return source


def test_reading_ahead_is_bounded(gated: Gated) -> None:
    """No more rows are read than wait in the queue, plus the one in hand."""
    gated.open_gate(1000)
    with Feed(gated, RowPlan(10, 1), 0, 1, depth=3, threads=1) as feed:
        next(feed)
        ahead = feed._ahead
        ahead._thread.join(0.3)
        assert ahead._thread.is_alive()
        assert gated.count <= 1 + 3 + 1


def test_a_storage_that_does_not_answer_is_an_error(gated: Gated) -> None:
    """Invariant 6: waiting for a batch has a deadline, and the time waited is counted."""
    feed = Feed(gated, RowPlan(10, 1), 0, 1, deadline=0.1)
    with pytest.raises(DeadlineError, match=r"no batch came within"):
        next(feed)
    assert feed.wait_seconds >= 0.1
    gated.open_gate(1000)
    feed.close()


def test_many_cores_do_not_deepen_the_queue_of_one_thread(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that one thread decodes wait as ``depth`` says: each batch in the queue is whole, and may be large."""
    monkeypatch.setattr("cosdask.data.feed._cpus", lambda: 96)
    gated.open_gate(1000)
    with Feed(gated, RowPlan(10, 1), 0, 1, depth=3) as feed:
        next(feed)
        ahead = feed._ahead
        ahead._thread.join(0.3)
        assert ahead._queue.maxsize == 3
        assert gated.count <= 1 + 3 + 1


def test_a_finalizer_may_ask_for_the_end_while_a_read_waits(gated: Gated) -> None:
    """The collector may call it in a thread that holds what the read waits for: it returns, and the thread ends later.

    A net's own finalizer once closed its feed: two tests of pycaffe lost 30 seconds each to a lock of their thread's.
    """
    feed = Feed(gated, RowPlan(10, 1), 0, 1, threads=1)
    feed.ask_to_end()
    thread = feed._ahead._thread
    assert thread.is_alive()
    gated.open_gate(1000)
    thread.join(30)
    assert not thread.is_alive()
    with pytest.raises(StopIteration):
        next(feed)


def test_closing_ends_the_threads_and_may_be_repeated(gated: Gated) -> None:
    """Nothing goes on after close(), also when the queue is full; a closed feed is at its end."""
    before = threading.active_count()
    gated.open_gate(1000)
    feed = Feed(gated, RowPlan(10, 1), 0, 1, threads=2)
    next(feed)
    feed.close()
    feed.close()
    assert not feed._ahead._thread.is_alive()
    with pytest.raises(StopIteration):
        next(feed)
    taken = take(gated, [Segment(0, 0, 10)], 2)
    next(taken)
    taken.close()
    assert threading.active_count() <= before + 2  # idle decoding threads may still be on their way out


def test_fewer_rows_than_counted_is_an_error(make_layer: Callable[..., Any]) -> None:
    """Rows in = rows out is checked: a source that shrank meanwhile is not passed over."""

    class Shrunk(FrameSource):
        kind = ""

        def read(self, start: int, stop: int, chunk: int = 1024) -> Iterator[pa.RecordBatch]:
            yield from super().read(start, max(start, stop - 1), chunk)

    table = pa.table({"label": range(5), "data": [bytes([i]) for i in range(5)]})
    source = Shrunk(make_layer("parquet", "x", 2, more=SIZES), frame=table)
    with pytest.raises(DataError, match="rows were counted"):
        list(source.batches(epochs=1))
    with pytest.raises(DataError, match="rows were counted"):
        source.frame(source.partitions()[0])
