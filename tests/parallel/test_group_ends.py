"""One group of ranks as the client sees it: whose error counts, and wishes that come before a rank is there.

A stand-in takes the place of the cluster, so that the order of what happens is the test's.
"""

from __future__ import annotations

import asyncio
import errno
import io
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest_parallel import JOB, MEMBERS

from cosdask.errors import CosdaskError, DeadlineError, GroupError, RankError
from cosdask.parallel import generation, group, link, rank, spares
from cosdask.parallel.group import Member
from cosdask.parallel.job import Job

CANCELLED = object()


class Task:
    """A rank's task as a future shows it: it has ended from when ``ended`` says so."""

    def __init__(self, outcome: Any, ended: Callable[[], bool]) -> None:
        self._outcome, self._ended = outcome, ended

    @property
    def status(self) -> str:
        if not self._ended():
            return "pending"
        if self._outcome is CANCELLED:
            return "cancelled"
        return "error" if isinstance(self._outcome, BaseException) else "finished"

    def done(self) -> bool:
        return self.status != "pending"

    def exception(self) -> Any:
        if self._outcome is CANCELLED:
            raise CancelledError
        return self._outcome

    def result(self) -> Any:
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome

    def add_done_callback(self, function: Any) -> None: ...

    def release(self) -> None: ...


class Cluster:
    """The client, its scheduler and its workers; ``late``: how often rank 1's worker says that no rank is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, late: int = 0) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.tasks: list[Task] = []
        #: whether a worker that is gone was taken from the cluster
        self.in_order = False
        self._heard: set[str] = set()
        self._late, self._looks = late, 0
        monkeypatch.setattr(generation, "connected", self._connected)
        monkeypatch.setattr(generation, "meeting_point", lambda client, members: "10.0.0.0:1")
        there = {member.address: {"last_seen": 0.0, "local_directory": member.folder} for member in MEMBERS}
        self.there = there
        monkeypatch.setattr(generation, "workers_of", lambda client: there)
        monkeypatch.setattr(generation, "ask_workers", self._ask)
        monkeypatch.setattr(generation, "left_in_order", lambda client, address: self.in_order)
        monkeypatch.setattr(generation, "STOPPING", 5.0)

    def _connected(self, client: Any) -> bool:
        self._looks += 1
        assert self._looks < 100, "the group does not end"
        return True

    def _ask(self, client: Any, addresses: list[str], function: Any, run_id: str, generation: int) -> dict[str, bool]:
        self.asked.append((function.__name__, addresses))
        answers = dict.fromkeys(addresses, True)
        if MEMBERS[1].address in answers and self._late:
            self._late -= 1
            answers[MEMBERS[1].address] = False
        self._heard.update(address for address, answer in answers.items() if answer)
        return answers

    def all_heard(self) -> bool:
        """Whether all ranks have heard of the wish."""
        return len(self._heard) == len(MEMBERS)

    def submit(self, function: Any, text: str, rank: int, **_: Any) -> Task:
        return self.tasks[rank]

    def cancel(self, futures: Any, force: bool) -> None: ...

    def run(self, wants_to_finish: Callable[[], bool] = lambda: False, job: Job = JOB) -> Any:
        client: Any = self
        return generation.Generation(client, job, MEMBERS, 60.0, wants_to_finish).run()


@pytest.mark.parametrize(
    ("other", "kind", "recoverable"),
    [
        (GroupError("rank 1 was ended by SIGKILL", died=True), GroupError, True),
        (RankError("rank 1: the row 7 is no image"), RankError, False),
    ],
)
def test_ranks_that_all_end_between_two_looks_are_judged_together(
    monkeypatch: pytest.MonkeyPatch, other: CosdaskError, kind: type, recoverable: bool
) -> None:
    """Invariants 5 and 8: rank 0 only lost its peer; what happened to rank 1 decides and is what the user reads."""
    cluster, looks = Cluster(monkeypatch), iter(range(1000))
    ended = lambda: next(looks) >= len(MEMBERS)  # noqa: E731  # the first look finds both at work
    cluster.tasks = [Task(GroupError("rank 0 lost a peer", lost_peer=True), ended), Task(other, ended)]
    with pytest.raises(kind, match="rank 1") as caught:
        cluster.run()
    assert bool(caught.value.where.get("died")) == recoverable


@pytest.mark.parametrize("word", ["finish_rank", "stop_rank"])
def test_a_wish_is_repeated_until_every_rank_has_heard_it(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """An early stop or a Ctrl-C while a worker still starts its rank is not lost."""
    cluster = Cluster(monkeypatch, late=2)
    cluster.tasks = [Task({"status": "done", "rank": rank}, cluster.all_heard) for rank in range(2)]

    def wants_to_finish() -> bool:
        if word == "stop_rank":
            raise KeyboardInterrupt
        return True

    if word == "stop_rank":
        with pytest.raises(KeyboardInterrupt):
            cluster.run(wants_to_finish)
    else:
        assert [result["rank"] for result in cluster.run(wants_to_finish)] == [0, 1]
    first, second = (member.address for member in MEMBERS)
    assert cluster.asked == [(word, [first, second]), (word, [second]), (word, [second])]


def test_a_command_that_comes_before_the_job_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job is a rank's first line; and a worker says whether it has a rank of the run that can hear."""
    command = ["cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        live = link.LiveRank(JOB, 0, process, io.BytesIO())
        assert not link.stop_rank(JOB.run_id, 0)
        monkeypatch.setattr(link, "_live", live)
        assert link.stop_rank(JOB.run_id, 0)
        assert not link.finish_rank("another run", 0) and not link.finish_rank(JOB.run_id, 1)
        live.begin()
        assert link.finish_rank(JOB.run_id, 0)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        job, *commands = process.stdout.read().splitlines()
    number, _, text = job.split(" ", 2)
    assert number == "0" and Job.from_json(text) == JOB
    assert commands == ["stop", "finish"]


def test_ranks_whose_futures_the_client_gave_up_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the connection was lost for a while, the old ranks must not live on beside the next group."""
    cluster = Cluster(monkeypatch)
    cluster.tasks = [Task(CANCELLED, lambda: True) for _ in MEMBERS]
    with pytest.raises(GroupError, match="scheduler was out of reach") as caught:
        cluster.run()
    assert caught.value.where["died"]
    assert cluster.asked[0] == ("kill_rank", [member.address for member in MEMBERS])


def test_a_rank_that_its_worker_does_not_begin_is_named_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 6: other tasks may keep the worker's threads; whose run it is that does, is asked first."""
    asked: list[list[str]] = []

    def check_free(client: Any, members: list[Member], own: str) -> None:
        asked.append([member.worker for member in members])
        if len(asked) > 2:
            raise GroupError("worker 1 is training already")

    for name, value in {"TOUCH": 0.0, "BEGINNING": 0.0, "ENDING": 0.0, "check_free": check_free}.items():
        monkeypatch.setattr(generation, name, value)
    cluster = Cluster(monkeypatch, late=100)
    cluster.tasks = [Task(None, lambda: False) for _ in MEMBERS]
    with pytest.raises(GroupError, match="training already"):
        cluster.run(job=replace(JOB, deadline=60.0))
    assert asked == [["1"]] * 3
    asked.clear()
    with pytest.raises(DeadlineError, match=r"^rank 1 at 10\.0\.0\.1 \(worker 1\) did not begin within 0 s") as caught:
        cluster.run(job=replace(JOB, deadline=0.0))
    assert caught.value.where["died"]


def test_one_worker_that_hangs_does_not_hide_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked all together, nobody's answer would come while one worker is stopped."""

    class Workers:
        async def _run(self, function: Any, *_: Any, workers: list[str], on_error: str) -> dict[str, Any]:
            if MEMBERS[0].address in workers:
                await asyncio.sleep(60)
            return dict.fromkeys(workers, ("other", "run other of m, rank 1"))

        def sync(self, function: Any, *arguments: Any, callback_timeout: float, **keywords: Any) -> Any:
            return asyncio.run(asyncio.wait_for(function(*arguments, **keywords), callback_timeout))

    monkeypatch.setattr(group, "ANSWER", 0.1)
    client: Any = Workers()
    with pytest.raises(GroupError, match=r"worker 1 at 10\.0\.0\.1 is training already \(run other of m, rank 1\)"):
        group.check_free(client, MEMBERS)
    group.check_free(client, MEMBERS, own="other")


def test_a_rank_without_room_for_its_process_may_have_some_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No memory or disk for a process is a loss like others, with its place, and no bare error of the system."""

    def full(threads: int, folder: str) -> Any:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(spares, "start_logged", full)
    with pytest.raises(GroupError, match=r"rank 1 at 10\.0\.0\.1 \(worker 1\).*Cannot allocate memory") as caught:
        link._begin(JOB, 1, str(tmp_path))
    assert caught.value.where["may_pass"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")])
def test_a_rank_out_of_memory_may_have_some_later(error: Exception) -> None:
    """Another program may have had it; an error that comes again ends the run after a few groups."""
    live = cast(link.LiveRank, SimpleNamespace(job=JOB, rank=0, process=SimpleNamespace(pid=1)))
    found = link._failure(live, {"kind": "error", **rank._described(error)}, 1)
    assert type(found) is RankError and found.where["may_pass"]
    assert "may_pass" not in link._failure(live, {"kind": "error", **rank._described(KeyError("x"))}, 1).where


@pytest.mark.parametrize(("waits", "asked"), [([1.0, 29.0, 1.0], []), ([1.0] * 32, ["leave", "leave"])])
def test_a_worker_that_stood_still_does_not_take_its_driver_for_gone(
    waits: list[float], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped for half a minute (SIGSTOP, a machine that swaps), it could not hear the driver, which may be there."""
    clock, words, left = [100.0], list[str](), iter(waits)

    def wait(seconds: float) -> bool:
        passed = next(left, None)
        clock[0] += passed or 0.0
        return passed is None

    monkeypatch.setattr(link, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    live = SimpleNamespace(heard=clock[0], end_if_hung=lambda: None, command=words.append)
    link._watch(cast(link.LiveRank, live), cast(threading.Event, SimpleNamespace(wait=wait)))
    assert words == asked


def test_a_worker_that_came_after_another_at_its_address_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fixed ports a nanny's next worker has the address of the dead one, but a folder of its own."""
    monkeypatch.setattr(generation, "LOOK", 0.0)
    cluster = Cluster(monkeypatch)
    cluster.tasks = [Task(None, lambda: False) for _ in MEMBERS]
    cluster.there[MEMBERS[1].address]["local_directory"] = "/tmp/worker-2"
    monkeypatch.setattr(generation, "ENDING", 0.0)
    with pytest.raises(GroupError, match=r"rank 1: worker 1 at 10\.0\.0\.1 is gone") as caught:
        cluster.run()
    assert caught.value.where["died"]


@pytest.mark.parametrize("in_order", [True, False])
def test_ranks_of_workers_that_are_scaled_away_have_time_for_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, in_order: bool
) -> None:
    """Dask forgets the worker first and closes it then: the others are not ended meanwhile. A death needs no time."""
    monkeypatch.setattr(generation, "LOOK", 0.0)
    monkeypatch.setattr(generation, "ENDING", 0.0)
    cluster, looks = Cluster(monkeypatch), iter(range(100))
    cluster.in_order = in_order
    leaves = [Task({"status": "preempted", "rank": 0}, lambda: next(looks) > 8), Task(None, lambda: False)]
    cluster.tasks = leaves
    del cluster.there[MEMBERS[1].address]
    with pytest.raises(GroupError, match=r"rank 1: worker 1 at 10\.0\.0\.1 is gone"):
        cluster.run()
    assert cluster.asked == ([] if in_order else [("kill_rank", [MEMBERS[0].address])])


def test_a_rank_that_was_killed_within_a_line_is_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a message is not read: the signal that ended the rank is the reason."""
    command = ["sh", "-c", 'read job; printf \'{"kind": "event", "eve\'; kill -9 $$']
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        live = link.LiveRank(JOB, 0, process, io.BytesIO())
        with pytest.raises(GroupError, match="was ended by signal SIGKILL") as caught:
            link._follow(live, worker=None)
    assert caught.value.where["died"]
