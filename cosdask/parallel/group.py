"""Which workers take part in a run, with which ranks, and where they meet."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from distributed import Client, Future

from cosdask.errors import DataError, DeadlineError, GroupError
from cosdask.parallel import link
from cosdask.parallel.network import address_on
from cosdask.parallel.visible import check_visible

#: seconds that workers have to answer a call
ANSWER = 10.0
#: seconds that the ranks of a run left by its client have to snapshot and end
LEAVING = 60.0
#: seconds that a nanny has to start a silent worker again
REVIVING = 30.0
#: seconds that finding and counting the rows may take
PREPARING = 3600.0


@dataclass(frozen=True)
class Member:
    """A worker and what it brings."""

    address: str
    worker: str
    host: str
    threads: int

    def as_dict(self) -> dict[str, Any]:
        """For a job."""
        return {"address": self.address, "worker": self.worker, "host": self.host}


def connected(client: Client) -> bool:
    """Whether the client has its scheduler; without it every question would wait for a reconnection."""
    return str(client.status) == "running"


def workers_of(client: Client) -> dict[str, Any]:
    """The scheduler's records of its workers, by address.

    Raises:
        GroupError: the scheduler is gone.
    """
    if connected(client) and client.scheduler is not None:
        # Not client.scheduler_info(): what it returns may be the answer to the client's own regular question, which
        # asks for no workers; where the machine is busy it comes in between, and all workers would seem to be gone.
        with contextlib.suppress(OSError):
            found = client.sync(client.scheduler.identity, n_workers=-1).get("workers")
            if found is not None:
                return dict(found)
    message = "the connection to the Dask scheduler is lost. Bring a cluster up and go on with --resume."
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
        _wait_a_little(client, needed, min(left, 1.0))
    members = sorted((_member(address, record) for address, record in found.items()), key=_by_name)
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


def _wait_a_little(client: Client, count: int, seconds: float) -> None:
    try:
        client.wait_for_workers(count, timeout=seconds)
    except TimeoutError:
        return  # the caller looks at the clock


def _member(address: str, record: dict[str, Any]) -> Member:
    return Member(address, str(record["name"]), str(record["host"]), int(record["nthreads"]))


def _by_name(member: Member) -> tuple[int, int, str, str]:
    number = int(member.worker) if member.worker.isdigit() else 0
    return (0 if member.worker.isdigit() else 1, number, member.worker, member.address)


def ask_workers(client: Client, addresses: list[str], function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Call a function beside the tasks of some workers; those that do not answer in time are left out.

    A worker that dies or hangs meanwhile is no error here: its task's future tells it better.
    """
    try:
        return dict(
            client.sync(
                client._run, function, *arguments, workers=addresses, on_error="return", callback_timeout=ANSWER
            )
        )
    except TimeoutError:
        return {}


def check_free(client: Client, members: list[Member], take_over: str = "") -> None:
    """No member may be training already: its tasks would wait behind the other run without a word.

    Args:
        client: connected to the cluster.
        members: the workers to use.
        take_over: a model whose run, left alone by a client that died, is asked to snapshot and end.

    Raises:
        GroupError: naming the worker and the run.
    """
    addresses = [member.address for member in members]
    if take_over:
        _end_left_runs(client, addresses, take_over)
    answers = ask_workers(client, addresses, link.live_run)
    for member in members:
        if isinstance(answers.get(member.address), str) and answers[member.address]:
            raise GroupError(
                f"worker {member.worker} at {member.host} is training already ({answers[member.address]}). Wait for it "
                "to end, or use other workers.",
                host=member.host,
            )


def _end_left_runs(client: Client, addresses: list[str], model: str) -> None:
    """Wait until the ranks of an earlier client's run of this model have written a snapshot and ended."""
    until = time.monotonic() + LEAVING
    while any(answer is True for answer in ask_workers(client, addresses, link.stop_model, model).values()):
        if time.monotonic() > until:
            raise DeadlineError(
                f"the run of {model} that an earlier client left did not end within {LEAVING:.0f} s of being asked to."
            )
        time.sleep(0.2)


def revive(client: Client, address: str) -> bool:
    """Have a silent worker's nanny end it and start it again; False where that was not to be done."""
    try:
        done = client.restart_workers([address], timeout=REVIVING, raise_for_error=False)
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
    if connected(client):
        ask_workers(client, [member.address for member in members], link.end_spare, run_id)


def results_of(futures: list[Future]) -> list[Any]:
    """The results of short tasks.

    Raises:
        DeadlineError: where they take longer than any count of rows should.
        CosdaskError: what a task raised.
    """
    until = time.monotonic() + PREPARING
    try:
        return [future.result(timeout=max(0.0, until - time.monotonic())) for future in futures]
    except TimeoutError as error:
        if isinstance(error, DeadlineError):
            raise
        raise DeadlineError(f"workers did not answer within {PREPARING:.0f} s; are they still there?") from error


def check_data(client: Client, members: list[Member], specs: list[dict[str, Any]]) -> None:
    """Every member must see the data; rows that were brought to the workers one by one need no look.

    Raises:
        DataError: naming the host and path, with the remedy.
    """
    specs = [spec for spec in specs if not spec.get("table")]
    if not specs:
        return
    futures = [
        client.submit(
            check_visible,
            specs,
            workers=[member.address],
            allow_other_workers=True,
            pure=False,
            key=f"cosdask-check-data-{rank}-{time.time_ns()}",
        )
        for rank, member in enumerate(members)
    ]
    for member, problems in zip(members, results_of(futures), strict=True):
        if problems:
            raise DataError(
                f"worker {member.worker} at {member.host} cannot read the data: {problems[0]} "
                "A path without a scheme is local to each worker: put the data on a filesystem that all workers see "
                "and name it by URL (hdfs://, s3://, file:// on shared storage).",
                host=member.host,
            )


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
