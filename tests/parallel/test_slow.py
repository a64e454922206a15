"""A rank that all others wait for is named, and nobody else."""

from __future__ import annotations

import os
import threading

import pytest

from cosdask.events import Progress, RunStarted
from cosdask.parallel.slow import SlowRanks
from cosdask.solver.busy import busy_seconds

START = RunStarted(
    workers=3, devices_per_worker=1, batch_per_device=8, effective_batch=24, max_iter=9, rows=9, epochs=1, base_lr=0.1,
    seed=1, ranks=[{"rank": rank, "host": f"host{rank}"} for rank in range(3)],
)  # fmt: skip


def told(slow: SlowRanks, busy: list[float], seconds: range) -> list[str]:
    """What is said of ranks that are busy for so long in each iteration, told once a second."""
    texts = [
        slow.notice(Progress(rank=rank, iteration=second, loss=1.0, lr=0.1, busy_seconds=share, time=float(second)))
        for second in seconds
        for rank, share in enumerate(busy)
    ]
    return [text for text in texts if text]


def test_only_a_lasting_difference_is_told_and_once() -> None:
    """Three looks in a row; even ranks, a moment's load, and what a new group does not know yet say nothing."""
    slow = SlowRanks(look=10, times=3, quiet=600)
    assert not slow.notice(START)
    assert not told(slow, [0.02, 0.025, 0.02], range(0, 100))
    assert not told(slow, [0.02, 0.05, 0.02], range(100, 121))
    assert not told(slow, [0.02, 0.02, 0.02], range(121, 150))
    (text,) = told(slow, [0.02, 0.02, 0.05], range(150, 400))
    assert text.startswith("rank 2 at host2 is busy for 0.05 s in an iteration, the others for 0.02 s")
    slow.notice(START)
    assert not told(slow, [0.05], range(400, 500))


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="this system does not count how threads wait")
def test_busy_seconds_count_work_and_not_sleep() -> None:
    """A thread that waits for another is not busy."""
    before = busy_seconds()
    threading.Event().wait(0.5)
    idle = busy_seconds()
    sum(number * number for number in range(3_000_000))
    after = busy_seconds()
    assert before is not None and idle is not None and after is not None
    assert idle - before < after - idle
