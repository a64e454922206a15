"""One group of ranks as the client sees it: whose error counts, and wishes that come before a rank is there.

A stand-in takes the place of the cluster, so that the order of what happens is the test's.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from cosdask.errors import CosdaskError, GroupError, RankError
from cosdask.parallel import generation, link
from cosdask.parallel.group import Member
from cosdask.parallel.job import Job

MEMBERS = [Member(f"tcp://10.0.0.{i}:1", str(i), f"10.0.0.{i}", 1) for i in range(2)]
JOB = Job(
    run_id="r", solver="", source={}, test_sources=[], model="m", seed=1, world=2,
    members=[member.as_dict() for member in MEMBERS], threads=[1, 1],
)  # fmt: skip


class Task:
    """A rank's task as a future shows it: it has ended from when ``ended`` says so."""

    def __init__(self, outcome: Any, ended: Callable[[], bool]) -> None:
        self._outcome, self._ended = outcome, ended

    @property
    def status(self) -> str:
        if not self._ended():
            return "pending"
        return "error" if isinstance(self._outcome, BaseException) else "finished"

    def done(self) -> bool:
        return self.status != "pending"

    def exception(self) -> Any:
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
        self._heard: set[str] = set()
        self._late, self._looks = late, 0
        monkeypatch.setattr(generation, "connected", self._connected)
        monkeypatch.setattr(generation, "meeting_point", lambda client, members: "10.0.0.0:1")
        there = {member.address: {"last_seen": 0.0} for member in MEMBERS}
        monkeypatch.setattr(generation, "workers_of", lambda client: there)
        monkeypatch.setattr(generation, "ask_workers", self._ask)
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

    def run(self, wants_to_finish: Callable[[], bool] = lambda: False) -> Any:
        client: Any = self
        return generation.Generation(client, JOB, MEMBERS, 60.0, wants_to_finish).run()


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
