"""Invariant 9: planning a large run costs the driver little, and what it sends stays small."""

from __future__ import annotations

import gc
import time
from dataclasses import replace

import pytest

from benchmarks.planning import index_of, planned
from cosdask.events import DebugInfo, Progress
from cosdask.parallel import results
from cosdask.parallel.job import JOB_OPTIONS, Job

RANKS, PARTITIONS = 64, 100_000


def test_many_ranks_and_partitions_are_planned_in_no_time() -> None:
    """64 ranks over 100,000 partitions: an epoch's segments of every rank, and the jobs that say so, within 2 s."""
    index = index_of(PARTITIONS)
    gc.freeze()  # what earlier tests left in this process is no part of planning
    began = time.process_time()
    job, rows = planned(index, RANKS)
    text = job.to_json()
    seconds = time.process_time() - began
    gc.unfreeze()
    assert seconds < 2.0
    assert rows == RANKS * (index.rows // RANKS)
    assert len(text) < 2_000_000
    assert Job.from_json(text) == job


def test_threads_that_decode_are_those_asked_for_or_the_ranks() -> None:
    """CaffeOnSpark's ``transform_thread_per_device``; its default of 1 leaves it to the threads a rank has."""
    job = Job(run_id="r", solver="", source={}, test_sources=[], model="m", seed=1, world=2, members=[], threads=[3, 4])
    assert [job.decoding_threads(rank) for rank in range(2)] == [3, 4]
    job = Job.from_json(replace(job, transform_thread_per_device=2).to_json())
    assert [job.decoding_threads(rank) for rank in range(2)] == [2, 2]
    assert "transform_thread_per_device" in JOB_OPTIONS


def test_the_memory_of_what_the_client_keeps_is_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 9: the history of a long run is thinned out, from its first row to its last; nothing else grows."""
    monkeypatch.setattr(results, "HISTORY", 100)
    record = results.Record()
    for iteration in range(5000):
        for rank in range(3):
            record.handle(Progress(rank=rank, iteration=iteration, loss=1.0, lr=0.1))
        record.handle(DebugInfo(iteration=iteration, lines=["a line"]))
    found = record.history()["iteration"].tolist()
    assert 50 <= len(found) <= 100 and not record.events
    assert found[0] == 0 and found[-1] == record.reached() == 4999
    assert found == sorted(set(found))
