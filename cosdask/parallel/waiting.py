"""Waiting for tasks on workers: with a deadline, or for as long as the workers that have them live."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

from distributed import Client, Future

from cosdask.errors import DeadlineError, GroupError
from cosdask.parallel.group import ANSWER, Member, ask_scheduler, connected, workers_of
from cosdask.parallel.heartbeats import Heartbeats

#: seconds that finding and counting the rows may take
PREPARING = 3600.0
#: seconds without a sign of life after which a worker counts as lost, where the user says nothing
SILENCE = 60.0
#: seconds between two looks at who is at the tasks that are waited for, which a large cluster answers at length
LOOK = 5.0


def results_of(futures: list[Future]) -> list[Any]:
    """The results of short tasks.

    Raises:
        DeadlineError: where they take longer than any count of rows should.
        GroupError: as :func:`wait_for_work`.
        CosdaskError: what a task raised.
    """
    if not futures:
        return []
    client = futures[0].client
    with _given_up(client, futures):
        _wait(futures, _Watch(client, SILENCE, PREPARING))
        return _gathered(futures)


def results_of_work(client: Client, futures: list[Future], silence: float) -> list[Any]:
    """The results of tasks that may take any time, as a test of many rows does; see :func:`wait_for_work`.

    Raises:
        GroupError: as :func:`wait_for_work`.
        CosdaskError: what a task raised.
    """
    with _given_up(client, futures):
        wait_for_work(client, futures, silence)
        return _gathered(futures)


@contextlib.contextmanager
def _given_up(client: Client, futures: list[Future]) -> Iterator[None]:
    """Where the block fails, nobody wants the tasks: the error's traceback would keep them going on the workers."""
    try:
        yield
    except BaseException:
        if connected(client):
            client.cancel(futures)
        raise


def wait_for_work(client: Client, futures: list[Future], silence: float) -> None:
    """Wait until tasks have ended, or one has failed; they may take any time while the workers that have them live.

    Args:
        client: connected to the cluster.
        futures: of the tasks.
        silence: seconds without a heartbeat after which a worker that has tasks counts as hung, and seconds without a
            worker that has any. A worker that is lost is neither: Dask gives its tasks to others.

    Raises:
        GroupError: with ``died``: such a worker, or none; or the scheduler is gone or does not answer.
    """
    _wait(futures, _Watch(client, silence))


class _Watch:
    """Looks now and then at whether somebody is at the tasks that are waited for."""

    def __init__(self, client: Client, silence: float, deadline: float = math.inf) -> None:
        self._client, self._silence, self._deadline = client, silence, deadline
        self._heartbeats = Heartbeats()
        self._began = self._busy = self._looked = time.monotonic()

    def look(self, pending: list[Future]) -> None:
        """Raise what is wrong, where it is time to look; see :func:`wait_for_work`."""
        now = time.monotonic()
        if now - self._began > self._deadline:
            raise DeadlineError(f"workers did not answer within {self._deadline:.0f} s; are they still there?")
        if now - self._looked < min(LOOK, self._silence / 4):
            return
        self._looked = now
        there, work = workers_of(self._client), ask_scheduler(self._client, "processing", workers=None)
        keys = {future.key for future in pending}
        # tasks that wait for others of their graph are on no worker yet: whoever works may be at those
        having = [address for address in work if not keys.isdisjoint(work[address])] or list(work)
        having = [address for address in having if address in there and work[address]]
        for address in having:
            seconds = self._heartbeats.silence(address, float(there[address]["last_seen"]))
            if seconds > self._silence:
                raise _hung(Member.of(address, there[address]), seconds)
        if having:
            self._busy = now
        elif now - self._busy > self._silence:
            raise GroupError(
                f"{len(pending)} task(s) wait, and for {now - self._busy:.0f} s no worker has had any; {len(there)} of "
                "them are there. Bring workers up and start again.",
                died=True,
            )


def _hung(member: Member, seconds: float) -> GroupError:
    return GroupError(
        f"worker {member.worker} at {member.host} has tasks and has sent no heartbeat for {seconds:.0f} s "
        "(--worker-silence); it hangs, or its host does. End it and start again.",
        died=True,
        silent=member.address,
        host=member.host,
    )


def _wait(futures: list[Future], watch: _Watch) -> None:
    """Wait until all have ended or one has failed."""
    # not by callbacks of the futures: they would keep those alive that are given up, and with them their tasks
    pause = 0.001
    while _failed(futures) is None:
        pending = [future for future in futures if future.status == "pending"]
        if not pending:
            return
        time.sleep(pause)
        pause = min(1.25 * pause, 0.05)
        watch.look(pending)


def _failed(futures: list[Future]) -> Future | None:
    return next((future for future in futures if future.status in ("error", "cancelled", "lost")), None)


def _gathered(futures: list[Future]) -> list[Any]:
    """The results of tasks that have ended, or what the first that failed raised."""
    failed = _failed(futures)
    if failed is not None and failed.status == "error":
        failed.result(timeout=ANSWER)
    try:
        if failed is not None:
            workers_of(failed.client)  # a scheduler that is gone takes all futures along, and is what is to be told
            failed.result(timeout=ANSWER)
        return [future.result(timeout=PREPARING) for future in futures]
    except TimeoutError as error:
        raise DeadlineError("the results of tasks that have ended did not come; are their workers there?") from error
