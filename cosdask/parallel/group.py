"""Which workers take part in a run, with which ranks, and where they meet."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from distributed import Client

from cosdask.errors import DeadlineError, GroupError
from cosdask.parallel import link
from cosdask.parallel.network import address_on

#: seconds that workers have to answer a call
ANSWER = 10.0
#: seconds that the scheduler has to answer a question, and those that it has after it left one unanswered
SCHEDULER_ANSWER, SILENT_ANSWER = 30.0, 2.0
#: seconds that the ranks of a run left by its client have to snapshot and end
LEAVING = 60.0
#: seconds that a nanny has to start a silent worker again
REVIVING = 30.0

#: clients whose scheduler left their last question unanswered
_unanswered: weakref.WeakSet[Client] = weakref.WeakSet()


@dataclass(frozen=True)
class Member:
    """A worker and what it brings.

    Attributes:
        address: of the Dask worker.
        worker: its name.
        host: the address at which its rank is met.
        threads: of its rank.
        folder: its local folder, which tells it from one that came after it at the same address.
    """

    address: str
    worker: str
    host: str
    threads: int
    folder: str = ""

    @classmethod
    def of(cls, address: str, record: Mapping[str, Any]) -> Member:
        """The worker at an address, of which the scheduler has this record."""
        folder = str(record.get("local_directory", ""))
        return cls(address, str(record["name"]), str(record["host"]), int(record["nthreads"]), folder)

    def as_dict(self) -> dict[str, Any]:
        """For a job."""
        return {"address": self.address, "worker": self.worker, "host": self.host, "folder": self.folder}

    def is_among(self, workers: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether it is one of some workers, given as :func:`workers_of` gives them."""
        found = workers.get(self.address)
        return found is not None and self.folder in ("", found.get("local_directory"))


def connected(client: Client) -> bool:
    """Whether the client has its scheduler, and that answers; else every question would wait in vain."""
    return str(client.status) == "running" and client not in _unanswered


def workers_of(client: Client) -> dict[str, Any]:
    """The scheduler's records of its workers, by address.

    Raises:
        GroupError: the scheduler is gone or does not answer (``no_scheduler``).
    """
    # Not client.scheduler_info(): what it returns may be the answer to the client's own regular question, which
    # asks for no workers; where the machine is busy it comes in between, and all workers would seem to be gone.
    return dict(ask_scheduler(client, "identity", n_workers=-1)["workers"])


def ask_scheduler(client: Client, question: str, **arguments: Any) -> Any:
    """What the scheduler answers to one of its questions, such as ``identity``, ``who_has`` and ``processing``.

    Raises:
        GroupError: the scheduler is gone or does not answer (``no_scheduler``).
    """
    why = ""
    if str(client.status) == "running" and client.scheduler is not None:
        seconds = SILENT_ANSWER if client in _unanswered else SCHEDULER_ANSWER
        try:
            found = client.sync(getattr(client.scheduler, question), **arguments, callback_timeout=seconds)
            _unanswered.discard(client)
            return found
        except TimeoutError:
            # it may hang, as one that is stopped or swaps does: the connection lives on
            _unanswered.add(client)
            why = f": it has not answered for {seconds:.0f} s"
        except OSError:
            pass  # it went while it was asked
    message = f"the connection to the Dask scheduler is lost{why}. Bring a cluster up and go on with --resume."
    raise GroupError(message, no_scheduler=True)


def scheduler_address(client: Client) -> str:
    """Where the client's scheduler is."""
    if client.scheduler is None:
        raise GroupError("the Dask client is closed; make a new one.")
    return str(client.scheduler.address)


def wait_for_members(
    client: Client, wanted: int | None, least: int | None, deadline: float, avoid: Collection[str] = ()
) -> list[Member]:
    """The workers to use, in rank order: sorted by name, so that results do not depend on who came first.

    Args:
        client: connected to the cluster.
        wanted: how many to use; None: all that are there.
        least: how many are enough when the deadline comes; default: all that are wanted.
        deadline: seconds to wait.
        avoid: addresses of workers that are listed but do not answer.

    Raises:
        DeadlineError: too few came.
    """
    needed = wanted or least or 1
    until = time.monotonic() + deadline
    while True:
        found = {address: record for address, record in workers_of(client).items() if address not in avoid}
        if len(found) >= needed:
            break
        left = until - time.monotonic()
        if left <= 0:
            if found and len(found) >= (least or needed):
                break
            raise DeadlineError(
                f"{len(found)} worker(s) of {needed} arrived within {deadline:.0f} s at the scheduler "
                f"{scheduler_address(client)}. Start more, ask for fewer with -clusterSize, accept fewer with "
                "--min-workers, or wait longer with --worker-deadline."
            )
        time.sleep(min(left, 0.1))
    members = sorted((Member.of(address, record) for address, record in found.items()), key=_by_name)
    return members[: wanted or len(members)]


def on_interface(client: Client, members: list[Member], interface: str) -> list[Member]:
    """The members with the addresses at which their ranks meet: those that Dask uses, or those on an interface.

    Raises:
        GroupError: a worker's host has no such interface, or does not answer.
    """
    if not interface:
        return members
    answers = ask_workers(client, [member.address for member in members], address_on, interface)
    for member in members:
        answer = answers.get(member.address, "no answer")
        if isinstance(answer, GroupError):
            raise answer
        if not isinstance(answer, str) or answer == "no answer":
            raise GroupError(
                f"worker {member.worker} at {member.host} did not say its address on {interface}: {answer}",
                host=member.host,
                died=True,
            )
    return [replace(member, host=answers[member.address]) for member in members]


def _by_name(member: Member) -> tuple[int, int, str, str]:
    number = int(member.worker) if member.worker.isdigit() else 0
    return (0 if member.worker.isdigit() else 1, number, member.worker, member.address)


def ask_workers(client: Client, addresses: list[str], function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Call a function beside the tasks of some workers; where one does not answer in time, the answers are lost.

    A worker that dies or hangs meanwhile is no error here: its task's future tells it better.
    """
    try:
        return dict(
            client.sync(
                client._run, function, *arguments, workers=addresses, on_error="return", callback_timeout=ANSWER
            )
        )
    except (TimeoutError, OSError):
        return {}


def ask_each_worker(
    client: Client, addresses: list[str], function: Callable[..., Any], *arguments: Any
) -> dict[str, Any]:
    """As :func:`ask_workers`, but only the answers of those workers are lost that hang; a message more a worker.

    Raises:
        GroupError: the scheduler is gone or does not answer (``no_scheduler``).
    """

    async def ask(address: str) -> dict[str, Any]:
        call = client._run(function, *arguments, workers=[address], on_error="return")
        try:
            return dict(await asyncio.wait_for(call, ANSWER))
        except (TimeoutError, OSError):
            return {}

    async def ask_all() -> list[dict[str, Any]]:
        return await asyncio.gather(*(ask(address) for address in addresses))

    try:
        answers = client.sync(ask_all, callback_timeout=2 * ANSWER)
    except (TimeoutError, OSError) as error:
        raise GroupError(
            f"the Dask scheduler did not pass a question on to {len(addresses)} worker(s) within {2 * ANSWER:.0f} s.",
            no_scheduler=True,
        ) from error
    return {address: answer for each in answers for address, answer in each.items()}


def left_in_order(client: Client, address: str) -> bool:
    """Whether a worker that is gone was taken from the cluster (scaled away, ``--lifetime``), and did not just die.

    Raises:
        GroupError: the scheduler is gone or does not answer (``no_scheduler``).
    """
    removals = [
        event for _, event in ask_scheduler(client, "events", topic=address) if event.get("action") == "remove-worker"
    ]
    return bool(removals) and bool(removals[-1].get("expected"))


def check_free(client: Client, members: list[Member], take_over: str = "", own: str = "") -> None:
    """No member may be training already: its tasks would wait behind the other run without a word.

    Args:
        client: connected to the cluster.
        members: the workers to use.
        take_over: a model whose run, left alone by a client that died, is asked to snapshot and end.
        own: a run that may be theirs.

    Raises:
        GroupError: naming the worker and the run.
    """
    addresses = [member.address for member in members]
    if take_over:
        _end_left_runs(client, addresses, take_over)
    answers = ask_each_worker(client, addresses, link.live_run)
    for member in members:
        found = answers.get(member.address)
        if isinstance(found, tuple) and found[0] != own:
            raise GroupError(
                f"worker {member.worker} at {member.host} is training already ({found[1]}). Wait for it to end, or use "
                "other workers.",
                host=member.host,
            )


def _end_left_runs(client: Client, addresses: list[str], model: str) -> None:
    """Wait until the ranks of an earlier client's run of this model have written a snapshot and ended."""
    until = time.monotonic() + LEAVING
    while True:
        answers = ask_each_worker(client, addresses, link.stop_model, model)
        # a worker that does not answer may still have a rank that trains; one that is gone answers with an error
        left = [address for address in addresses if answers.get(address, True) is True]
        if not left:
            return
        if time.monotonic() > until:
            raise DeadlineError(
                f"the run of {model} that an earlier client left did not end within {LEAVING:.0f} s of being asked to, "
                f"or could not be asked: {', '.join(left)}. End these workers, or wait for them."
            )
        time.sleep(0.2)


def revive(client: Client, address: str) -> bool:
    """Have a silent worker's nanny end it and start it again; False where that was not to be done."""
    try:
        # not client.restart_workers(): it waits for ever for a scheduler that hangs
        done = client.sync(
            client._restart_workers,
            workers=[address],
            timeout=REVIVING,
            raise_for_error=False,
            callback_timeout=REVIVING + ANSWER,
        )
    except (ValueError, TimeoutError, OSError):
        return False  # it has no nanny, or that is as silent as the worker
    return done.get(address) == "OK"


@contextlib.contextmanager
def spares_ahead(client: Client, members: list[Member], threads: int) -> Iterator[None]:
    """The members' ranks load what they need while the block gets their job ready; where it fails, they end.

    Args:
        client: connected to the cluster.
        members: the workers to use, in any order.
        threads: of each rank; 0: as many as its worker has.
    """
    wanted = {member.address: threads or member.threads for member in members}
    ask_workers(client, list(wanted), link.spare_ahead, wanted)
    try:
        yield
    except BaseException:
        end_spares(client, members, "")
        raise


def end_spares(client: Client, members: list[Member], run_id: str) -> None:
    """No group follows: the workers need no processes for it."""
    if not connected(client):
        return
    with contextlib.suppress(GroupError):  # no scheduler, no way to any worker; what nobody takes ends by itself
        there = workers_of(client)
        # those that are gone would be waited for, and took theirs along
        left = [member.address for member in members if member.address in there]
        ask_workers(client, left, link.end_spare, run_id)


def meeting_point(client: Client, members: list[Member]) -> str:
    """An address on rank 0's host where the ranks can meet: on the interface that Dask uses there.

    Raises:
        GroupError: rank 0's worker does not answer, or has no free port.
    """
    first = members[0]
    address = ask_workers(client, [first.address], link.free_address, first.host).get(first.address)
    if not isinstance(address, str):
        raise GroupError(
            f"rank 0 at {first.host} could not say where the ranks shall meet: {address or 'no answer'}",
            rank=0,
            host=first.host,
            died=True,
        )
    return address
