"""What a recovery makes of the ends of groups; stand-ins take the place of the cluster and of the groups."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from conftest_parallel import JOB, MEMBERS

import cosdask
from cosdask.errors import GroupError, StorageError
from cosdask.events import Event, Restarted
from cosdask.parallel import recovery
from cosdask.parallel.group import Member
from cosdask.parallel.job import Job

DONE = [{"status": "done"}]
DIED = GroupError("rank 0 died", died=True)


class Groups:
    """Runs a recovery whose groups end as is given, one after the other; each end is results or an error.

    Attributes:
        jobs: of the groups, in order.
        told, warned: what the run was told.
        there: the workers; they may change when a group ends.
        refused: errors of the next writings of the history.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *ends: Any) -> None:
        self.jobs: list[Job] = []
        self.told: list[Restarted] = []
        self.warned: list[str] = []
        self.there = list(MEMBERS)
        self.refused: list[Exception] = []
        #: what was written as run.json
        self.written: list[dict[str, Any]] = []
        #: whose folder was swept
        self.swept: list[str] = []
        #: errors of the next questions for addresses
        self.silent: list[Exception] = []
        #: whether another run has a worker; whose the run folder is
        self.busy, self.owner = False, JOB.run_id
        self._ends = list(ends)
        stand_ins = {
            "Generation": self._generation,
            "newest_whole": lambda folder: (None, []),
            "workers_of": lambda client: {member.address: {} for member in self.there},
            "wait_for_members": lambda client, wanted, *_: self.there[:wanted],
            "on_interface": self._on_interface,
            "check_free": self._check_free,
            "sweep": lambda *_: self.swept.append(self.owner),
            **{name: lambda *_: True for name in ("end_spares", "connected")},
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(recovery, name, stand_in)
        monkeypatch.setattr(recovery, "PAUSE", 0.0)

    def run(self, job: Job = JOB, **options: Any) -> None:
        """Recover to the end."""
        record = SimpleNamespace(reached=lambda: len(self.jobs))
        folder = SimpleNamespace(
            read_run=lambda: {"run_id": self.owner}, write_run=self.written.append, url="small.run"
        )
        run: Any = SimpleNamespace(
            tell=self._tell, warn=self.warned.append, wants_to_finish=lambda: False, record=record, folder=folder
        )
        client: Any = None
        job = replace(job, lr_scale=2.0 if options.get("scale_lr") else 1.0)
        recovery.Recovery(client, cosdask.Config(**options), job, self.there, run).to_the_end()

    def dies(self, left: list[Member]) -> Callable[[], GroupError]:
        """The end of a group by a death, after which these workers are there."""

        def die() -> GroupError:
            self.there = left
            return DIED

        return die

    def _generation(self, client: Any, job: Job, *_: Any) -> Any:
        self.jobs.append(job)
        return SimpleNamespace(run=self._end)

    def _end(self) -> Any:
        end = self._ends.pop(0)
        if callable(end):
            end = end()
        if isinstance(end, BaseException):
            raise end
        return end

    def _on_interface(self, client: Any, members: list[Member], interface: str) -> list[Member]:
        if self.silent:
            raise self.silent.pop()
        return members

    def _check_free(self, client: Any, members: list[Member], own: str) -> None:
        assert own == JOB.run_id
        if self.busy:
            raise GroupError("worker 1 is training already")

    def _tell(self, event: Event) -> None:
        if self.refused:
            raise self.refused.pop()
        assert isinstance(event, Restarted)
        self.told.append(event)


def test_what_is_lost_while_the_next_group_comes_together_is_made_up_for_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies while it is asked for its address is one more death, not the end of the run."""
    groups = Groups(monkeypatch, DIED, DONE)
    groups.silent = [GroupError("worker 1 did not say its address", died=True)]
    groups.run(interface="ib0")
    assert ["rank 0 died" in warning for warning in groups.warned] == [True]
    (restart,) = groups.told
    assert "did not say its address" in restart.reason


def test_workers_that_another_run_has_taken_end_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for them, or be sent from one to the other, without end."""
    groups = Groups(monkeypatch, DIED, DONE)
    groups.busy = True
    with pytest.raises(GroupError, match="training already"):
        groups.run()


def test_a_folder_that_another_run_has_taken_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that slept must not go on from the snapshots of who trained the model meanwhile, nor sweep its files."""
    groups = Groups(monkeypatch, [{"status": "unheard", "iteration": 7}], DONE)
    groups.owner = "another"
    with pytest.raises(GroupError, match=r"small\.run is another run's by now \(another\)"):
        groups.run()
    assert not groups.swept and len(groups.jobs) == 1


def test_a_disk_too_full_for_the_history_has_its_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the restart itself cannot be written down, the disk may have room the next time."""
    full = StorageError("small.run: cannot add an event: No space left on device")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    groups = Groups(monkeypatch, DIED, DONE)
    groups.refused = [full]
    groups.run()
    assert ["rank 0 died" in warning for warning in groups.warned] == [True]
    assert "No space left" in groups.told[0].reason
    groups = Groups(monkeypatch, DIED, DONE)
    groups.refused = [full] * 3
    with pytest.raises(StorageError, match="No space left"):
        groups.run()


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"status": "unheard"}, "heard nothing of this client for 30 s .*, wrote a snapshot and ended at iteration 7"),
        ({"status": "preempted", "kept": True}, r"SIGTERM\) at iteration 7 and wrote a checkpoint first"),
        ({"status": "preempted", "kept": False}, r"SIGTERM\) at iteration 7 and could not write a checkpoint"),
    ],
)
def test_a_group_that_ended_before_its_time_is_followed_by_another(
    result: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that stood still for a while, as a computer that slept, need not resume by hand; the reason is told."""
    groups = Groups(monkeypatch, [{"iteration": 7, **result}], DONE)
    groups.run()
    (restart,) = groups.told
    assert re.search(reason, restart.reason), restart.reason


def test_workers_that_come_back_are_taken_in_by_the_next_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that shrank grows again, never beyond the first; the rate follows where the user asked for that."""
    groups = Groups(monkeypatch)
    third = Member("tcp://10.0.0.2:1", "2", "10.0.0.2", 1)
    groups._ends = [groups.dies(MEMBERS[:1]), groups.dies([*MEMBERS, third]), DONE]
    groups.run(scale_lr="linear", min_workers=1)
    assert [job.world for job in groups.jobs] == [2, 1, 2]
    assert [job.lr_scale for job in groups.jobs[1:]] == [1.0, 2.0]
    fewer, more = groups.warned
    assert "going on with 1 workers in place of 2" in fewer
    assert "0.5 of what it was, its learning rate times 1 in place of 2" in fewer
    assert "going on with 2 workers in place of 1" in more and "times 2 in place of 1" in more


def test_a_global_batch_is_divided_among_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The effective batch stays the prototxt's 12 where it can be divided evenly; where not, the user hears of it.

    The net, its source and the position in the data go by the same rows.
    """
    six_workers = [Member(f"tcp://10.0.0.{i}:1", str(i), f"10.0.0.{i}", 1) for i in range(6)]
    layer = 'name: "data" type: "Data" include { phase: TRAIN } data_param { source: "rows" batch_size: 2 }'
    test = 'name: "data" type: "Data" include { phase: TEST } data_param { source: "rows" batch_size: 7 }'
    job = replace(
        JOB,
        world=6,
        solver=f"net_param {{ layer {{ {layer} }} layer {{ {test} }} }}",
        source={"kind": "zipped", "sources": [{"kind": "lmdb", "layer": layer}]},
        groups=[[0, 6, 4]],
    )
    groups = Groups(monkeypatch)
    groups.there = six_workers
    reached = iter([100, 200, 300])
    monkeypatch.setattr(recovery, "newest_whole", lambda folder: ({"state": "s", "iteration": next(reached)}, []))
    groups._ends = [*(groups.dies(six_workers[:left]) for left in (5, 4, 6)), DONE]
    groups.run(job, batch_is_global=True, min_workers=1)
    batches = [re.findall(r"batch_size: (\d+)", job.solver) for job in groups.jobs]
    assert batches == [["2", "7"], ["2", "7"], ["3", "7"], ["2", "7"]]
    read = [re.findall(r"batch_size: (\d+)", job.source["sources"][0]["layer"]) for job in groups.jobs]
    assert read == [["2"], ["2"], ["3"], ["2"]]
    assert groups.jobs[-1].groups == [[0, 6, 4], [100, 5, 4], [200, 4, 6], [300, 6, 4]] == groups.written[-1]["groups"]
    five, four, six = groups.warned
    assert "cannot be divided evenly among 5 devices" in five and "0.833 of the prototxt's" in five
    assert "the effective batch is what it says" in four and "the effective batch is what it says" in six
