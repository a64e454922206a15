"""One group of ranks, from its start to its end, as the client sees it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from distributed import Client, Future

from cosdask.errors import CosdaskError, DeadlineError, GroupError
from cosdask.parallel import link
from cosdask.parallel.group import Member, ask_workers, check_free, connected, left_in_order, meeting_point, workers_of
from cosdask.parallel.heartbeats import Heartbeats
from cosdask.parallel.job import Job
from cosdask.parallel.preemption import LEAVING

#: seconds between two signs of life from the driver to the workers
TOUCH = 5.0
#: seconds between two looks at which workers are there
LOOK = 1.0
#: seconds after which a scheduler's answer is late: it stood still for a while
LATE = 3.0
#: seconds to wait for a scheduler whose connection is lost, and for one that is there and does not answer
RECONNECTING, HANGING = 15.0, 60.0
#: seconds after which ranks that were not there yet are asked to end once more
ASK_AGAIN = 0.25
#: seconds that ranks have to snapshot and end after they were asked to
STOPPING = 60.0
#: seconds after which a rank that its worker has not begun is asked after; one of the group before has ended by then
BEGINNING = 15.0
#: seconds that killed ranks have to be gone
ENDING = 10.0
#: seconds in which ranks that wait for others give up after the first has
GIVING_UP = 5.0


class Generation:
    """Starts a job's ranks, waits for them, and ends them all on the first sign that one is lost."""

    def __init__(
        self, client: Client, job: Job, members: list[Member], silence: float, wants_to_finish: Callable[[], bool]
    ) -> None:
        self.client, self.members = client, members
        coordinator = meeting_point(client, members) if job.world > 1 else ""
        self.job = replace(job, coordinator=coordinator)
        self._futures: list[Future] = []
        self._changed = threading.Event()
        self._started = self._touched = self._looked = time.monotonic()
        #: ranks that their workers were seen to have begun
        self._begun = set[int]()
        self._silence, self._wants_to_finish = silence, wants_to_finish
        #: ranks that have not been asked to finish yet, where that is wanted
        self._to_finish = set(range(len(members)))
        self._heartbeats = Heartbeats()

    def run(self) -> list[dict[str, Any]]:
        """Run to the end: the ranks' results, by rank.

        Raises:
            RankError and other CosdaskErrors: a rank ended with an error that would come again.
            GroupError: with ``died`` in its places: a rank or a worker was lost, and another group may do better.
            KeyboardInterrupt: after the ranks have written a snapshot and ended.
        """
        try:
            self._start()
            return self._wait()
        except KeyboardInterrupt:
            self._stop()
            raise
        except BaseException:
            self._end_all()
            raise
        finally:
            for future in self._futures:
                future.release()

    def _start(self) -> None:
        text = self.job.to_json()
        for rank, member in enumerate(self.members):
            # allow_other_workers: a task that waits for a worker that never comes back would hang; on another worker
            # it fails at once, by the address it was sent to
            key = f"cosdask-rank-{rank}-{self.job.run_id}-{self.job.generation}"
            future = self.client.submit(
                link.run_rank,
                text,
                rank,
                key=key,
                workers=[member.address],
                allow_other_workers=True,
                pure=False,
                retries=0,
            )
            future.add_done_callback(lambda _: self._changed.set())
            self._futures.append(future)

    def _wait(self) -> list[dict[str, Any]]:
        while True:
            self._check_scheduler()
            self._hear_consumers()
            self._look()
            # futures of a lost scheduler count as done too
            if connected(self.client) and all(future.done() for future in self._futures):
                if any(future.status != "finished" for future in self._futures):
                    # all may have ended since the look: the first rank's error may be another's doing
                    raise self._gather_error()
                return [future.result() for future in self._futures]

    def _hear_consumers(self) -> None:
        """A consumer may end the run early; one that fails stops it, with a snapshot."""
        try:
            finish = self._wants_to_finish()
        except Exception:
            self._stop()
            raise
        if finish:
            self._to_finish = self._ask(link.finish_rank, self._to_finish)

    def _check_scheduler(self) -> None:
        """Without a scheduler nothing is heard of the ranks: after a while that is the end for this client."""
        began = time.monotonic()
        while not connected(self.client):
            # it hears no worker's heartbeat either: the workers are not to be blamed for that afterwards
            self._heartbeats = Heartbeats()
            seconds = HANGING if str(self.client.status) == "running" else RECONNECTING
            if time.monotonic() - began > seconds:
                raise GroupError(
                    f"the Dask scheduler has not been reached for {seconds:.0f} s; the ranks snapshot and "
                    "end by themselves where their workers live on. Bring a cluster up and go on with --resume.",
                    no_scheduler=True,
                )
            self._changed.wait(0.25)
            self._changed.clear()
            with contextlib.suppress(GroupError):
                workers_of(self.client)  # one that left a question unanswered may answer again

    def _look(self) -> None:
        """Wait a moment, then raise what has gone wrong since."""
        self._changed.wait(0.25)
        self._changed.clear()
        if not connected(self.client):
            return
        if any(future.status in ("error", "cancelled", "lost") for future in self._futures):
            raise self._gather_error()
        try:
            self._look_at_workers()
        except GroupError as error:
            # it may answer again: _check_scheduler says when that has lasted too long
            if not error.where.get("no_scheduler"):
                raise

    def _look_at_workers(self) -> None:
        """From time to time: are they there, and have they begun; and tell them that this client is."""
        now = time.monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            self._check_workers()
        if now - self._touched > TOUCH:
            self._touched = now
            self._check_begun(self._everywhere(link.touch, range(len(self.members))))

    def _check_begun(self, answers: dict[str, Any]) -> None:
        """A worker that is busy with something else keeps its rank waiting, without a word of its own.

        Args:
            answers: whether the workers, by address, have their rank; one that hangs does not answer at all, and its
                heartbeats tell.
        """
        there = [answers.get(member.address) for member in self.members]
        self._begun |= {rank for rank, answer in enumerate(there) if answer is True}
        idle = {rank for rank, answer in enumerate(there) if answer is False} - self._begun
        waiting = sorted(rank for rank in idle if not self._futures[rank].done())
        waited = time.monotonic() - self._started
        if not waiting or waited < BEGINNING:
            return
        check_free(self.client, [self.members[rank] for rank in waiting], own=self.job.run_id)
        if waited > self.job.deadline:
            named = ", ".join(self._named(rank) for rank in waiting)
            raise DeadlineError(
                f"{named} did not begin within {waited:.0f} s (--worker-deadline): the worker's threads are busy with "
                "other tasks. Wait for them to end, or use other workers.",
                died=True,
            )

    def _settled(self, seconds: float, ranks: Collection[int] | None = None) -> bool:
        """Wait until some ranks' tasks, by default all, have ended in some way; False where the time was too short."""
        until = time.monotonic() + seconds
        futures = [future for rank, future in enumerate(self._futures) if ranks is None or rank in ranks]
        while not all(future.done() for future in futures):
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._changed.wait(min(left, 0.25))
            self._changed.clear()
        return True

    def _let_leave(self, there: dict[str, Any]) -> None:
        """Where a worker was taken from the cluster, its rank and the others are writing a checkpoint just now."""
        gone = self._gone(there)
        if any(left_in_order(self.client, self.members[rank].address) for rank in gone):
            self._settled(LEAVING, set(range(len(self.members))) - gone)

    def _check_workers(self) -> None:
        asked = time.monotonic()
        there = workers_of(self.client)
        lost = self._lost_worker(there)
        if lost is not None:
            self._let_leave(there)
            raise lost
        if time.monotonic() - asked > LATE:
            # as while it does not answer at all
            self._heartbeats = Heartbeats()
        for rank, member in enumerate(self.members):
            if member.is_among(there):
                self._check_heartbeat(member, rank, float(there[member.address]["last_seen"]))

    def _lost_worker(self, there: dict[str, Any]) -> GroupError | None:
        """The first worker that is gone before its rank's task has ended."""
        lost = [rank for rank in sorted(self._gone(there)) if not self._futures[rank].done()]
        if not lost:
            return None
        rank, member = lost[0], self.members[lost[0]]
        text = f"rank {rank}: worker {member.worker} at {member.host} is gone."
        return GroupError(text, died=True, rank=rank, host=member.host)

    def _gone(self, there: dict[str, Any]) -> set[int]:
        """The ranks whose workers are not among those that are there."""
        return {rank for rank, member in enumerate(self.members) if not member.is_among(there)}

    def _check_heartbeat(self, member: Member, rank: int, beat: float) -> None:
        """A worker that hangs is as good as lost."""
        silent = self._heartbeats.silence(member.address, beat)
        if silent > self._silence:
            raise GroupError(
                f"rank {rank}: worker {member.worker} at {member.host} has sent no heartbeat for {silent:.0f} s; it "
                "hangs, or its host does.",
                died=True,
                silent=member.address,
                rank=rank,
                host=member.host,
            )

    def _gather_error(self) -> BaseException:
        """The most telling of the ranks' errors: one rank's own error ends the others, whose ends say little."""
        if any(_is_alone(error) for error in self._errors()):
            # those that wait at the meeting point give up one after the other; who does not was never there
            self._settled(GIVING_UP)
        with contextlib.suppress(GroupError):  # without a scheduler nothing is known of workers
            self._let_leave(workers_of(self.client))
        self._end_by(link.kill_rank, ENDING)
        found = self._errors()
        if any(_is_alone(error) for error in found):
            return self._missing_ranks()
        telling = [error for error in found if not _is_death(error)]
        if telling:
            return telling[0]
        # the first to go says why; those it took along only lost a peer
        ours = [error for error in found if isinstance(error, CosdaskError)]
        first = next((error for error in ours if not error.where.get("lost_peer")), None) or self._lost()
        if first is not None or ours:
            first = first or ours[0]
            return GroupError(first.message, **{**first.where, "died": True})
        if any(future.status == "cancelled" for future in self._futures):
            return GroupError(
                "the scheduler was out of reach for a while, and Dask gave the ranks' tasks up.", died=True
            )
        return GroupError("a rank's task was lost with its worker.", died=True)

    def _errors(self) -> list[BaseException]:
        """What the ranks' tasks that have failed so far raised."""
        return [future.exception() for future in self._futures if future.status == "error"]

    def _named(self, rank: int) -> str:
        """A rank with its place, for errors."""
        member = self.members[rank]
        return f"rank {rank} at {member.host} (worker {member.worker})"

    def _missing_ranks(self) -> DeadlineError:
        """The group did not come together: who was not there."""
        there: list[str] = []
        missing: list[str] = []
        for rank, future in enumerate(self._futures):
            came = future.status == "error" and _is_alone(future.exception())
            (there if came else missing).append(self._named(rank))
        seconds, place = self.job.deadline, self.job.coordinator
        text = (
            f"the group did not come together at {place} within {seconds:.0f} s (--worker-deadline), before any step: "
        )
        if missing:
            text += f"{', '.join(missing)} did not come; {', '.join(there)} waited."
        else:
            text += (
                f"{', '.join(there)} all waited. The port is not reachable from every worker: a firewall, or an "
                "address of another network (--interface names the one to use)."
            )
        return DeadlineError(text, died=True)

    def _stop(self) -> None:
        """Ask the ranks to snapshot and end, and wait for it; a second Ctrl-C ends them at once."""
        try:
            if not self._end_by(link.stop_rank, STOPPING):
                raise DeadlineError(
                    f"the ranks did not end within {STOPPING:.0f} s of being asked to; they were killed."
                )
        except BaseException:
            self._end_all()
            raise

    def _end_all(self) -> None:
        """End every rank at once."""
        if not connected(self.client):
            return  # they end by themselves when they hear no more of the driver
        self._end_by(link.kill_rank, ENDING)
        self.client.cancel(self._futures, force=True)

    def _end_by(self, function: Callable[[str, int], bool], seconds: float) -> bool:
        """Ask all ranks to end until they have; False where the time was too short.

        Dask keeps a lost worker's task waiting where no other worker was there just then: it need not end.
        """
        until = time.monotonic() + seconds
        left = self._ask(function, set(range(len(self.members))))
        while not self._settled(ASK_AGAIN):
            if self._all_ended():
                return True
            if time.monotonic() > until:
                return False
            left = self._ask(function, left)
        return True

    def _lost(self) -> GroupError | None:
        """As :meth:`_lost_worker`, as far as the scheduler can be asked."""
        with contextlib.suppress(GroupError):
            return self._lost_worker(workers_of(self.client))
        return None

    def _all_ended(self) -> bool:
        """Whether every rank's task has ended, or its worker has, which takes the rank along."""
        with contextlib.suppress(GroupError):
            gone = self._gone(workers_of(self.client))
            return all(future.done() or rank in gone for rank, future in enumerate(self._futures))
        return False

    def _ask(self, function: Callable[[str, int], bool], ranks: set[int]) -> set[int]:
        """Ask some ranks for something; returns those that are to be asked again.

        A rank whose task its worker has not begun hears nothing: without asking again it would never know.
        """
        # where the connection was lost for a while, Dask's client has given its futures up, and the ranks live on
        ended = {rank for rank, future in enumerate(self._futures) if future.status in ("finished", "error")}
        left = set(ranks) - ended
        answers = self._everywhere(function, left)
        return {rank for rank in left if answers.get(self.members[rank].address) is not True}

    def _everywhere(self, function: Callable[[str, int], bool], ranks: Collection[int]) -> dict[str, Any]:
        """Call a function of :mod:`cosdask.parallel.link` where those ranks are; the answers, by worker's address."""
        if not ranks:
            return {}
        try:
            there = workers_of(self.client)
        except GroupError:
            return {}  # no scheduler, no way to any worker; waiting for the ranks finds out
        addresses = [self.members[rank].address for rank in ranks if self.members[rank].address in there]
        job = self.job
        return ask_workers(self.client, addresses, function, job.run_id, job.generation) if addresses else {}


def _is_alone(error: BaseException | None) -> bool:
    """Whether a rank waited for the others in vain."""
    return isinstance(error, DeadlineError) and bool(error.where.get("rendezvous"))


def _is_death(error: BaseException | None) -> bool:
    """Whether an error says that a process or worker was lost, rather than what was wrong."""
    if not isinstance(error, CosdaskError):
        return type(error).__name__ in ("KilledWorker", "CancelledError", "CommClosedError")
    return type(error) is GroupError or bool(error.where.get("died"))
