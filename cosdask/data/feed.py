"""The feed: batches read and decoded ahead of the step, in order, in bounded memory."""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import numpy as np

from cosdask.data.base import Source
from cosdask.data.batch import Batch, decode_batch, filled, full_batches
from cosdask.data.pieces import Hole, Piece, cut
from cosdask.data.plan import RowPlan, Segment
from cosdask.data.skips import Skips
from cosdask.errors import DataError, DeadlineError

Pieces = list[Piece | Hole]
#: Seconds that a batch may take to come before the wait is an error.
_DEADLINE = 600.0
#: Seconds that closing waits for the threads to end.
_CLOSING = 30.0


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Ahead:
    """Runs ahead of its consumer: one thread reads, ``threads`` decode, ``depth`` batches wait in order.

    With one decoding thread the reading thread decodes too, which spares small rows a change of threads; so it is by
    default unless rows are slow to decode.
    """

    def __init__(
        self,
        source: Source,
        batches: Iterator[Pieces],
        depth: int,
        threads: int | None,
        decode: Callable[[Pieces], Batch],
        deadline: float,
    ) -> None:
        self._source, self._batches, self._decode, self._deadline = source, batches, decode, deadline
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._queue: queue.Queue[Future[Batch | None]] = queue.Queue(max(1, depth, threads or 1))
        # no Event: setting one takes its lock, which ask_to_end must never wait for
        self._stopped = False
        self._ended = False
        self.wait_seconds = 0.0
        self._work = [0.0, 0.0]
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="cosdask-feed", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        """The reading thread: every outcome, errors and the end included, goes through the queue."""
        try:
            with self._source.hold():
                while (pieces := self._timed(0, next, self._batches, None)) is not None:
                    if self._threads is None:
                        self._threads = self._needed_threads(pieces)
                        # with several threads, a place for what each of them decodes
                        self._queue.maxsize = max(self._queue.maxsize, self._threads or 1)
                    if not self._put(self._decoding(pieces)):
                        return
                self._put(_done(None))
        except BaseException as error:
            self._put(_failed(error))
        finally:
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=self._stopped)

    def _decoding(self, pieces: Pieces) -> Future[Batch | None]:
        if self._threads is None or self._threads == 1:
            return _done(self._timed(1, self._decode, pieces))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, "cosdask-decode")
        return self._pool.submit(self._timed, 1, self._decode, pieces)

    def _timed(self, kind: int, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do something, and count the seconds."""
        begin = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            with self._lock:
                self._work[kind] += time.perf_counter() - begin

    @property
    def work_seconds(self) -> tuple[float, float]:
        """Seconds spent reading, and decoding (of all threads together)."""
        with self._lock:
            return self._work[0], self._work[1]

    def _needed_threads(self, pieces: Pieces) -> int | None:
        """By the first rows that can be read; None as long as there are none."""
        rows = next((piece.rows for piece in pieces if isinstance(piece, Piece)), None)
        if rows is None:
            return None
        return _cpus() if self._source.is_slow(rows) else 1

    def _put(self, outcome: Future[Batch | None]) -> bool:
        """Hand over an outcome; False when the consumer has closed."""
        while not self._stopped:
            try:
                self._queue.put(outcome, timeout=0.5)
                return True
            except queue.Full:
                continue
        return False

    def next(self) -> Batch | None:
        """The next batch, or None at the end.

        Raises:
            DeadlineError: none came in time.
            Exception: what went wrong in reading or decoding.
        """
        if self._ended:
            return None
        begin = time.perf_counter()
        try:
            batch = self._queue.get(timeout=self._deadline).result(timeout=self._deadline)
        except (queue.Empty, FutureTimeoutError) as error:
            raise DeadlineError(
                f"{self._source.where}: no batch came within {self._deadline:.0f} s; is its storage still answering?"
            ) from error
        except BaseException:
            self._ended = True
            raise
        finally:
            self.wait_seconds += time.perf_counter() - begin
        self._ended = batch is None
        return batch

    def ask_to_end(self) -> None:
        """Let the threads end soon, without waiting for them and without taking any lock."""
        self._ended = self._stopped = True

    def close(self) -> None:
        """End the threads.

        Raises:
            DeadlineError: a read did not return in time.
        """
        self.ask_to_end()
        while not self._queue.empty():
            try:
                self._queue.get_nowait().cancel()
            except queue.Empty:
                break
        self._thread.join(_CLOSING)
        if self._thread.is_alive():
            raise DeadlineError(f"{self._source.where}: a read did not end within {_CLOSING:.0f} s")


def _done(value: Batch | None) -> Future[Batch | None]:
    future: Future[Batch | None] = Future()
    future.set_result(value)
    return future


def _failed(error: BaseException) -> Future[Batch | None]:
    future: Future[Batch | None] = Future()
    future.set_exception(error)
    return future


class Feed:
    """An endless iterator of one rank's raw batches (see :meth:`Source.decode`), all of them full.

    Batch k holds positions ``k * batch_size`` to ``(k + 1) * batch_size`` of the rank's stream of rows (counted after
    those that ``rand_skip`` passes over), so batches straddle epochs and nothing is dropped; a resumed run begins at
    its ``first_batch``.

    Args:
        source: the rows.
        plan: which rank reads which.
        rank: this rank.
        batch_size: rows of a batch.
        first_batch: number of the first batch wanted.
        depth: batches that wait ready, at most (at least one for each thread).
        threads: threads that decode; None for one a CPU core where decoding is slow, else one.
        seed: of random crops and mirrors.
        deadline: seconds that a batch may take to come.

    Example:
        >>> with Feed(source, RowPlan(source.rows, 2), rank=0, batch_size=64) as feed:   # doctest: +SKIP
        ...     raw = next(feed)
    """

    def __init__(
        self,
        source: Source,
        plan: RowPlan,
        rank: int,
        batch_size: int,
        first_batch: int = 0,
        depth: int = 3,
        threads: int | None = None,
        seed: int = 0,
        deadline: float = _DEADLINE,
    ) -> None:
        self.batch_size = batch_size
        self.rows = 0
        self._source = source
        first = source.skipped(seed) + first_batch * batch_size
        batches = cut(source, plan.stream(rank, first), batch_size, seed, plan.shuffle)
        self._ahead = _Ahead(source, batches, depth, threads, self._whole, deadline)
        self._with_owner: weakref.finalize[..., Any] | None = None

    def _whole(self, pieces: Pieces) -> Batch:
        skips = self._source.skips
        return filled(self._source, decode_batch(self._source, pieces, skips), pieces, skips)

    @property
    def wait_seconds(self) -> float:
        """How long the consumer has waited for batches."""
        return self._ahead.wait_seconds

    @property
    def work_seconds(self) -> tuple[float, float]:
        """Seconds spent reading rows, and decoding them (of all threads together)."""
        return self._ahead.work_seconds

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch = self._ahead.next()
        if batch is None:
            raise StopIteration
        if batch.rows != self.batch_size:
            raise DataError(f"{self._source.where}: a batch of {batch.rows} rows, {self.batch_size} are due")
        self.rows += batch.rows
        return batch.arrays

    def ask_to_end(self) -> None:
        """Let the threads end soon, without waiting for them.

        For finalizers: the garbage collector calls these in any thread at any allocation, also where that thread
        holds a lock that the reading thread needs in order to end.
        """
        self._ahead.ask_to_end()

    def end_with(self, owner: object) -> None:
        """Let the threads end when ``owner`` is collected, for owners that nobody has to close."""
        self._with_owner = weakref.finalize(owner, self.ask_to_end)

    def close(self) -> None:
        """End the threads; may be called again.

        Raises:
            DeadlineError: a read did not return in time.
        """
        if self._with_owner is not None:
            self._with_owner.detach()  # it would keep this feed as long as the owner lives
        self._ahead.close()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def take(
    source: Source,
    segments: Iterable[Segment] | Sequence[Segment],
    batch_size: int,
    depth: int = 2,
    threads: int | None = None,
    seed: int = 0,
    deadline: float = _DEADLINE,
    skips: Skips | None = None,
) -> Iterator[tuple[list[str], dict[str, np.ndarray]]]:
    """The rows of some segments in order, each once: ``(SampleIDs, raw batch)``, the last one short.

    Args:
        source: the rows.
        segments: which of them.
        batch_size: rows of a batch.
        depth: batches that wait ready, at most.
        threads: threads that decode; None for one a CPU core where decoding is slow, else one.
        seed: of random mirrors.
        deadline: seconds that a batch may take to come.
        skips: where rows that cannot be read are counted, if the source skips them; None: the source's own.

    Raises:
        DataError: a row that cannot be read, or rows in and rows out differ.
    """
    counted = source.skips if skips is None else skips
    own = Skips()
    wanted = 0

    def decode(pieces: Pieces) -> Batch:
        return decode_batch(source, pieces, own, with_ids=True)

    def wanted_segments() -> Iterator[Segment]:
        nonlocal wanted
        for segment in segments:
            wanted += segment.rows
            yield segment

    ahead = _Ahead(source, cut(source, wanted_segments(), batch_size, seed), depth, threads, decode, deadline)
    rows = 0
    try:
        for batch in full_batches(iter(ahead.next, None), batch_size):
            rows += batch.rows
            yield batch.ids, batch.arrays
        if rows + own.count != wanted:
            raise DataError(f"{source.where}: {wanted} rows in, {rows} out and {own.count} left out")
    finally:
        counted.merge(own)
        ahead.close()
