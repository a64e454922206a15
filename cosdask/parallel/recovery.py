"""What follows a death: groups one after the other, each from the newest whole snapshot, until one comes to the end."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from distributed import Client

from cosdask.config import Config
from cosdask.errors import CosdaskError, DeadlineError, GroupError, StorageError, may_pass
from cosdask.events import Restarted
from cosdask.parallel.generation import Generation
from cosdask.parallel.group import (
    Member,
    check_free,
    connected,
    end_spares,
    on_interface,
    revive,
    wait_for_members,
    workers_of,
)
from cosdask.parallel.job import Job, regrouped
from cosdask.parallel.leftovers import sweep
from cosdask.parallel.link import CLIENT_GONE
from cosdask.parallel.locality import Arrangement
from cosdask.parallel.run import Run
from cosdask.parallel.scaling import divided_anew, rate_factor
from cosdask.parallel.snapshots import newest_whole

#: generations without progress after which a run ends
FRUITLESS = 3
#: seconds to wait before the next group after a loss that may come again at once, such as a full disk
PAUSE = 1.0


@dataclass
class Recovery:
    """Runs a job's groups, one after the other.

    Where a rank or a worker is lost, a new group goes on from the newest whole snapshot. Errors that would come again
    end the run, and so do losses without progress between them.

    Args:
        client: connected to the cluster.
        config: deadlines, and how many workers are enough.
        job: what the first group does.
        members: the first group's workers.
        run: is told of every restart.
        ready: makes a group's job ready for its members; called before each group.
        arrange: which of the workers found for a new group takes which rank.
    """

    client: Client
    config: Config
    job: Job
    members: list[Member]
    run: Run
    ready: Callable[[Job, list[Member]], Job] = lambda job, members: job
    arrange: Callable[[list[Member]], Arrangement] = Arrangement

    def __post_init__(self) -> None:
        #: ranks of the first group: later ones have no more
        self._most = len(self.members)
        #: rows that each of its devices took in an iteration
        self._rows = self.job.groups[-1][2] if self.job.groups else 0

    def to_the_end(self) -> None:
        """Run groups until one ends as it should.

        Raises:
            RankError and other CosdaskErrors: an error that would come again.
            GroupError: losses without progress between them.
            DeadlineError: too few workers came back.
            KeyboardInterrupt: after the ranks have written a snapshot and ended.
        """
        try:
            self._groups()
        finally:
            end_spares(self.client, self.members, self.job.run_id)
            # what stays is never read, so a filesystem that fails now hides no other end
            with contextlib.suppress(CosdaskError):
                self._check_folder()
                self._sweep()

    def _groups(self) -> None:
        fruitless, best = 0, -1
        loss: CosdaskError | None = None
        for generation in itertools.count():
            before, loss = loss, None
            try:
                if before is not None:
                    self._regroup(generation, before)
                before = None
                job = self.ready(replace(self.job, generation=generation), self.members)
                results = self._generation(self._divided(job) or job).run()
                told = [result for result in results if result["status"] in ("preempted", "unheard")]
                if not told:
                    return
                loss = _left(told)
            except KeyboardInterrupt as error:
                raise KeyboardInterrupt(self.run.where_it_stopped()) from error
            except CosdaskError as error:
                if not error.where.get("died") and not may_pass(error):
                    raise
                loss = error
            if before is not None:
                # more was lost while the next group came together
                self.run.warn(f"before a new group was there: {before.message}")
            reached = self.run.record.reached()
            fruitless = fruitless + 1 if reached <= best else 0
            best = max(best, reached)
            if fruitless >= FRUITLESS:
                raise loss
            if may_pass(loss):
                time.sleep(PAUSE * (fruitless + 1))

    def _generation(self, job: Job) -> Generation:
        return Generation(self.client, job, self.members, self.config.worker_silence, self.run.wants_to_finish)

    def _sweep(self) -> None:
        """Remove what killed ranks left half written; without a scheduler some may be writing still."""
        if connected(self.client):
            sweep(self.job.solver, self.job.model)

    def _regroup(self, generation: int, loss: CosdaskError) -> None:
        """The members and the job of the next group; the loss is told and kept."""
        self._check_folder()
        self._sweep()
        placed = self.arrange(self._next_members(loss))
        # workers may have been waited for
        self._check_folder()
        self.members = placed.members
        snapshot, problems = newest_whole(self.run.folder)
        for problem in problems:
            self.run.warn(problem)
        job = self.job
        if snapshot is not None:
            job = replace(job, snapshot=snapshot["state"], weights="")
        iteration = snapshot["iteration"] if snapshot else 0
        groups = self._groups_from(iteration)
        self.run.tell(Restarted(generation=generation, reason=loss.message, iteration=iteration))
        factor = rate_factor(self.config, len(self.members) * job.devices)
        self._tell_of_size(len(self.members), factor)
        self.job = replace(
            job,
            lr_scale=factor,
            groups=groups,
            world=len(self.members),
            members=[member.as_dict() for member in self.members],
            threads=[self.config.threads or member.threads for member in self.members],
            locality=placed.as_dict(),
        )

    def _check_folder(self) -> None:
        """While this client stood still, another may have trained the same model: what lies there is not ours then."""
        folder = self.run.folder
        try:
            found = folder.read_run()["run_id"]
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            found = "which is just beginning"
        if found != self.job.run_id:
            raise GroupError(
                f"{folder.url} is another run's by now ({found}): it was started while this one ({self.job.run_id}) "
                "stood still. Use another -model for a run of its own.",
                taken_by=found,
            )

    def _groups_from(self, iteration: int) -> list[list[int]]:
        """The sizes that the group has had, kept in the run folder too, for a client that takes the run up."""
        groups = self.job.groups
        if not groups:
            return groups
        rows = self._rows
        if self._divided(self.job):
            rows = rows * self._most // len(self.members)
        found = regrouped(groups, iteration, len(self.members) * self.job.devices, rows)
        if found != groups:
            self.run.folder.write_run({**self.run.folder.read_run(), "groups": found})
        return found

    def _divided(self, job: Job) -> Job | None:
        """The job with the batch divided among those that are there now; None where each device keeps its batch."""
        devices, most = len(self.members) * job.devices, self._most * job.devices
        if not self.config.batch_is_global or devices == most:
            return None
        return divided_anew(job, most, devices)

    def _next_members(self, loss: CosdaskError) -> list[Member]:
        """As many workers as before, or fewer where the user said how few are enough."""
        silent = loss.where.get("silent")
        avoid = {silent} if isinstance(silent, str) and not revive(self.client, silent) else set()
        config = self.config
        # where fewer went on, those that have come back since are taken in again; none is waited for
        there = sum(address not in avoid for address in workers_of(self.client))
        world = max(self.job.world, min(self._most, there))
        try:
            found = wait_for_members(self.client, world, config.min_workers, config.worker_deadline, avoid)
            check_free(self.client, found, own=self.job.run_id)
            return on_interface(self.client, found, config.interface)
        except DeadlineError as error:
            raise DeadlineError(f"{error.message} The group before it ended because: {loss.message}") from loss

    def _tell_of_size(self, world: int, factor: float) -> None:
        before, job = self.job.world, self.job
        if world == before:
            return
        rate = "at its rate"
        if factor != job.lr_scale:
            rate = f"its learning rate times {factor:g} in place of {job.lr_scale:g} (--scale-lr)"
        epoch = (
            "what is left of the epoch in progress is divided among them"
            if job.groups
            else "the epoch in progress is planned anew over these workers"
        )
        self.run.warn(
            f"going on with {world} workers in place of {before}: {self._batch_of(world, before)}, {rate}; {epoch}."
        )

    def _batch_of(self, world: int, before: int) -> str:
        """What this many workers, in place of those before, make of the effective batch."""
        if not self.config.batch_is_global:
            return (
                f"each iteration now takes {world} batches instead of {before}, so the effective batch is "
                f"{world / before:.3g} of what it was"
            )
        if world == self._most or self._divided(self.job):
            return "the prototxt's batch is divided among them, so the effective batch is what it says"
        now, most = world * self.job.devices, self._most * self.job.devices
        return (
            f"the prototxt's batch cannot be divided evenly among {now} devices, so each takes what it took of {most}, "
            f"and the effective batch is {now / most:.3g} of the prototxt's"
        )


def _left(told: list[dict[str, Any]]) -> GroupError:
    """Why a group's ranks ended together before the training's end, to form again."""
    iteration = told[0]["iteration"]
    if any(result["status"] == "unheard" for result in told):
        text = (
            f"the ranks heard nothing of this client for {CLIENT_GONE:.0f} s (it or the scheduler stood still), wrote "
            f"a snapshot and ended at iteration {iteration}."
        )
    else:
        kept = any(result["kept"] for result in told)
        checkpoint = "wrote a checkpoint first" if kept else "could not write a checkpoint"
        text = f"the group was told to end (SIGTERM) at iteration {iteration} and {checkpoint}."
    return GroupError(text, died=True)
