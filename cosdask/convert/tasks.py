"""Running a conversion's tasks: on a cluster's workers, or one after the other in this process."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from cosdask.errors import ConfigError, DeadlineError
from cosdask.storage import exists, local_path

#: Seconds after which the client looks whether workers are still there, and that it lets them be away.
_LOOK = 5.0
_PATIENCE = 120.0
#: Seconds that nothing at all may become done.
_STILL = 3600.0


class Runner(Protocol):
    """Calls functions with a job that they share and an item each."""

    workers: int

    def each(self, function: Callable[[Any, Any], Any], job: Any, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Pairs of an item and ``function(job, item)``, as they become ready; the first error ends all."""
        ...

    def chain(
        self,
        prepare: Callable[[Any, Any], Any],
        append: Callable[[Any, Any, Any], Any],
        job: Any,
        items: Sequence[Any],
    ) -> Iterator[tuple[Any, Any]]:
        """Pairs of an item and ``append(job, item, prepare(job, item))``, in the items' order, one append at a time."""
        ...

    def check_visible(self, paths: Sequence[str]) -> None:
        """Refuse local paths that a worker does not see."""
        ...


class Here:
    """One thing after the other, in this process."""

    workers = 1

    def each(self, function: Callable[[Any, Any], Any], job: Any, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """See :meth:`Runner.each`."""
        for item in items:
            yield item, function(job, item)

    def chain(
        self,
        prepare: Callable[[Any, Any], Any],
        append: Callable[[Any, Any, Any], Any],
        job: Any,
        items: Sequence[Any],
    ) -> Iterator[tuple[Any, Any]]:
        """See :meth:`Runner.chain`."""
        for item in items:
            yield item, append(job, item, prepare(job, item))

    def check_visible(self, paths: Sequence[str]) -> None:
        """See :meth:`Runner.check_visible`."""


class OnCluster:
    """Tasks of a Dask cluster; data goes between workers only.

    Args:
        client: a synchronous ``distributed.Client``.

    Raises:
        DeadlineError: no worker is there.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.workers = len(self._names())
        if not self.workers:
            raise DeadlineError("the cluster has no workers; start some, or give another --cluster")
        # The same for every command, so that a store on a host's own disk can be gone on with. A host and not a worker,
        # for a worker that died comes back under another address.
        address = min(self._names().items(), key=lambda found: str(found[1]))[0]
        self.writer = _host(address)

    def _names(self) -> dict[str, Any]:
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        return {address: found["name"] for address, found in workers.items()}

    def each(self, function: Callable[[Any, Any], Any], job: Any, items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """See :meth:`Runner.each`."""
        shared = self.client.submit(_same, job, pure=False)
        futures = {self.client.submit(function, shared, item, pure=False): item for item in items}
        try:
            for future in self._ready(set(futures)):
                result = future.result()
                # else it would be done again when the worker that has the result dies
                future.release()
                yield futures.pop(future), result
        finally:
            self.client.cancel([shared, *futures])

    def chain(
        self,
        prepare: Callable[[Any, Any], Any],
        append: Callable[[Any, Any, Any], Any],
        job: Any,
        items: Sequence[Any],
    ) -> Iterator[tuple[Any, Any]]:
        """See :meth:`Runner.chain`; items are prepared ahead, two a worker."""
        shared = self.client.submit(_same, job, pure=False)
        waiting = deque(items)
        ahead: deque[tuple[Any, Any]] = deque()
        try:
            while waiting or ahead:
                while waiting and len(ahead) < 2 * self.workers:
                    item = waiting.popleft()
                    ahead.append((item, self.client.submit(prepare, shared, item, pure=False)))
                item, prepared = ahead[0]
                future = self.client.submit(append, shared, item, prepared, pure=False, workers=[self.writer])
                for _ in self._ready({future}, self.writer):
                    pass
                result = future.result()
                ahead.popleft()
                future.release()
                yield item, result
        finally:
            self.client.cancel([shared, *(future for _, future in ahead)])

    def _ready(self, pending: set[Any], writer: str = "") -> Iterator[Any]:
        """Futures as they become done; an error when workers stay away, or nothing happens."""
        from distributed import wait

        seen = moved = time.monotonic()
        while pending:
            try:
                done = wait(list(pending), timeout=_LOOK, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                now = time.monotonic()
                hosts = {_host(address) for address in self._names()}
                seen = now if (writer in hosts if writer else hosts) else seen
                if now - seen > _PATIENCE:
                    who = f"the workers on {writer}, which writes, are" if writer else "all workers are"
                    message = f"{who} gone for {_PATIENCE:.0f} s; repeat the command to go on where this one ended"
                    raise DeadlineError(message) from None
                if now - moved > _STILL:
                    raise DeadlineError(f"nothing became done within {_STILL:.0f} s") from None
                continue
            seen = moved = time.monotonic()
            pending -= done
            yield from done

    def check_visible(self, paths: Sequence[str]) -> None:
        """See :meth:`Runner.check_visible`.

        Raises:
            ConfigError: names the first worker and path.
        """
        from cosdask.parallel.group import ask_workers

        local = [path for path in paths if local_path(path) is not None]
        if not local:
            return
        for host, missing in ask_workers(self.client, list(self._names()), _unseen, local).values():
            if missing:
                raise ConfigError(
                    f"{missing[0]}: not seen by the worker on {host}; give a path that all workers see, such as a "
                    "shared folder or an hdfs:// URL",
                    path=missing[0],
                )


def _host(address: str) -> str:
    """The host of a worker's address."""
    from distributed.comm.addressing import get_address_host

    return str(get_address_host(address))


def _same(job: Any) -> Any:
    return job


def _unseen(paths: Sequence[str]) -> tuple[str, list[str]]:
    return socket.gethostname(), [path for path in paths if not exists(path)]


def runner_for(client: Any) -> Runner:
    """How to run tasks: with a client's workers, or here where there is none."""
    return Here() if client is None else OnCluster(client)
