"""What follows a death: groups one after the other, each from the newest whole snapshot, until one comes to the end."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from distributed import Client

from cosdask.config import Config
from cosdask.errors import CosdaskError, DeadlineError, GroupError
from cosdask.events import Restarted, Warned
from cosdask.parallel.generation import Generation
from cosdask.parallel.group import Member, connected, end_spares, on_interface, revive, wait_for_members
from cosdask.parallel.job import Job, regrouped
from cosdask.parallel.leftovers import sweep
from cosdask.parallel.locality import Arrangement
from cosdask.parallel.run import Run
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
                results = self._generation(job).run()
                told = [result for result in results if result["status"] == "preempted"]
                if not told:
                    return
                loss = _preempted(told)
            except KeyboardInterrupt as error:
                raise KeyboardInterrupt(self.run.where_it_stopped()) from error
            except CosdaskError as error:
                if not error.where.get("died") and not error.where.get("may_pass"):
                    raise
                loss = error
            if before is not None:
                # more was lost while the next group came together
                self.run.tell(Warned(message=f"before a new group was there: {before.message}"))
            reached = self.run.record.reached()
            fruitless = fruitless + 1 if reached <= best else 0
            best = max(best, reached)
            if fruitless >= FRUITLESS:
                raise loss
            if loss.where.get("may_pass"):
                time.sleep(PAUSE * (fruitless + 1))

    def _generation(self, job: Job) -> Generation:
        return Generation(self.client, job, self.members, self.config.worker_silence, self.run.wants_to_finish)

    def _sweep(self) -> None:
        """Remove what killed ranks left half written; without a scheduler some may be writing still."""
        if connected(self.client):
            sweep(self.job.solver, self.job.model)

    def _regroup(self, generation: int, loss: CosdaskError) -> None:
        """The members and the job of the next group; the loss is told and kept."""
        self._sweep()
        placed = self.arrange(self._next_members(loss))
        self.members = placed.members
        snapshot, problems = newest_whole(self.run.folder)
        for problem in problems:
            self.run.tell(Warned(message=problem))
        job = self.job
        if snapshot is not None:
            job = replace(job, snapshot=snapshot["state"], weights="")
        iteration = snapshot["iteration"] if snapshot else 0
        self.run.tell(Restarted(generation=generation, reason=loss.message, iteration=iteration))
        self._tell_of_size(len(self.members))
        self.job = replace(
            job,
            groups=self._groups_from(iteration),
            world=len(self.members),
            members=[member.as_dict() for member in self.members],
            threads=[self.config.threads or member.threads for member in self.members],
            locality=placed.as_dict(),
        )

    def _groups_from(self, iteration: int) -> list[list[int]]:
        """The sizes that the group has had, kept in the run folder too, for a client that takes the run up."""
        groups = self.job.groups
        if not groups:
            return groups
        found = regrouped(groups, iteration, len(self.members) * self.job.devices, groups[-1][2])
        if found != groups:
            self.run.folder.write_run({**self.run.folder.read_run(), "groups": found})
        return found

    def _next_members(self, loss: CosdaskError) -> list[Member]:
        """As many workers as before, or fewer where the user said how few are enough."""
        silent = loss.where.get("silent")
        avoid = {silent} if isinstance(silent, str) and not revive(self.client, silent) else set()
        config, world = self.config, self.job.world
        try:
            found = wait_for_members(self.client, world, config.min_workers, config.worker_deadline, avoid)
            return on_interface(self.client, found, config.interface)
        except DeadlineError as error:
            raise DeadlineError(f"{error.message} The group before it ended because: {loss.message}") from loss

    def _tell_of_size(self, world: int) -> None:
        before = self.job.world
        if world != before:
            self.run.tell(
                Warned(
                    message=f"going on with {world} of {before} workers: each iteration now takes {world} batches "
                    f"instead of {before}, so the effective batch is {world / before:.3g} of what it was, at its rate"
                    + (
                        "; what is left of the epoch in progress is divided among them."
                        if self.job.groups
                        else ", and the epoch in progress is planned anew over the workers that are left."
                    )
                )
            )


def _preempted(told: list[dict[str, object]]) -> GroupError:
    first = told[0]
    return GroupError(
        f"the group was told to end (SIGTERM) at iteration {first['iteration']} and wrote a checkpoint first.",
        died=True,
    )
