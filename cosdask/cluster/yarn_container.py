"""What runs in a YARN container: ``python -m cosdask.cluster.yarn_container scheduler|worker``.

Addresses are always explicit: left to themselves Dask's servers listen on every interface and then tell the others
whichever address comes first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any

from cosdask.cluster.names import SIGN_OF_LIFE, TLS_FILES
from cosdask.cluster.yarn_compat import skein
from cosdask.errors import DeadlineError

#: seconds a worker waits for the scheduler before its container ends
_DEATH_TIMEOUT = 60
#: seconds between two looks at who is connected
_LOOK = 1.0


def main(words: Sequence[str] | None = None) -> None:
    """Runs one part of the cluster until it ends."""
    parser = argparse.ArgumentParser(prog="cosdask.cluster.yarn_container")
    parser.add_argument("role", choices=["scheduler", "worker"])
    parser.add_argument("--idle-timeout", type=float, default=None)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    given = parser.parse_args(words)
    if given.role == "scheduler":
        asyncio.run(_scheduler(given.idle_timeout, given.tls))
    else:
        _worker(given.tls, given.gpu)


def _host() -> str:
    """The address of this node, as its NodeManager knows it."""
    return os.environ["NM_HOST"]


async def _scheduler(idle_timeout: float | None, tls: bool) -> None:
    """Serves until told to end, or until nobody has been connected for ``idle_timeout`` seconds."""
    from distributed import Scheduler, Security

    application = skein().ApplicationClient.from_current()
    security = Security(require_encryption=True, **_tls_settings()) if tls else None
    host = _host()
    async with Scheduler(
        host=host, port=0, protocol="tls" if tls else "tcp", security=security, dashboard_address=f"{host}:0"
    ) as scheduler:
        application.kv["dask.dashboard"] = _dashboard(scheduler, host).encode()
        application.kv["dask.scheduler"] = scheduler.address.encode()
        print(f"scheduler at {scheduler.address}", flush=True)
        watcher = asyncio.create_task(Watch(scheduler, application, idle_timeout).run())
        await scheduler.finished()
        watcher.cancel()


def _dashboard(scheduler: Any, host: str) -> str:
    return f"http://{host}:{scheduler.http_server.port}"


def _is_users(client: str) -> bool:
    """Whether a client of the scheduler is somebody outside: tasks that ask for a client leave their worker's behind.

    Example:
        >>> [_is_users(name) for name in ("Client-7f2e", "Client-worker-7f2e", "fire-and-forget")]
        [True, False, False]
    """
    return client != "fire-and-forget" and not client.startswith("Client-worker-")


class Watch:
    """Ends the application once nobody has been there for too long: a dead client leaves nothing running.

    A client counts while it is connected; a cluster object, which holds no client, gives signs of life.
    """

    def __init__(self, scheduler: Any, application: Any, idle_timeout: float | None) -> None:
        self._scheduler, self._application, self._seconds = scheduler, application, idle_timeout
        self._seen = time.monotonic()
        scheduler.handlers[SIGN_OF_LIFE] = self._heard

    def _heard(self) -> None:
        self._seen = time.monotonic()

    async def run(self) -> None:
        """Looks every second, until it has ended the application."""
        while self._seconds is not None:
            await asyncio.sleep(_LOOK)
            if any(_is_users(client) for client in self._scheduler.clients):
                self._heard()
            elif time.monotonic() - self._seen > self._seconds:
                said = f"nobody was connected for {self._seconds:g} s (idle_timeout)"
                print(said, flush=True)
                await asyncio.to_thread(self._application.shutdown, "SUCCEEDED", said)
                return


def _worker(tls: bool, gpu: bool) -> None:
    """Runs a Dask worker under its nanny, by the container's name, until it ends."""
    # loaded in this process, which is spared another start of Python
    from distributed.cli.dask_worker import main as dask_worker

    from cosdask.parallel.gpu_memory import take_as_needed

    take_as_needed()
    application = skein().ApplicationClient.from_current()
    here = skein().properties
    claim = None
    if gpu and "CUDA_VISIBLE_DEVICES" not in os.environ:
        from cosdask.cluster.gpus import claim_gpu

        # held as long as this process lives
        claim = claim_gpu()
        os.environ["CUDA_VISIBLE_DEVICES"] = str(claim.number)
    resources, host = here.container_resources, _host()
    words = [
        _wait_for_scheduler(application),
        # scaling down ends workers by name: it must be the container's
        "--name", here.container_id,
        "--nthreads", str(resources.vcores),
        "--memory-limit", f"{resources.memory}MiB",
        "--nanny",
        "--host", host,
        "--dashboard-address", f"{host}:0",
        "--local-directory", os.getcwd(),
        "--death-timeout", str(_DEATH_TIMEOUT),
        *_tls_words(tls),
    ]  # fmt: skip
    print("dask worker", *words, flush=True)
    try:
        dask_worker(words, prog_name="dask worker")
    finally:
        if claim is not None:
            claim.release()


def _wait_for_scheduler(application: Any, deadline: float = _DEATH_TIMEOUT) -> str:
    """The scheduler's address; in the client it may come a moment after the container."""
    ends = time.monotonic() + deadline
    while time.monotonic() < ends:
        found = application.kv.get("dask.scheduler")
        if found is not None:
            return str(found.decode())
        time.sleep(0.2)
    raise DeadlineError(f"no Dask scheduler told its address within {deadline:.0f} s")


def _tls_settings() -> dict[str, str]:
    """The arguments of ``distributed.Security`` for this container's files."""
    ca, cert, key = TLS_FILES["tls_ca_file"], TLS_FILES["tls_cert"], TLS_FILES["tls_key"]
    roles = ("scheduler", "worker", "client")
    both = {f"tls_{role}_cert": cert for role in roles} | {f"tls_{role}_key": key for role in roles}
    return {"tls_ca_file": ca, **both}


def _tls_words(tls: bool) -> list[str]:
    if not tls:
        return []
    ca, cert, key = (os.path.abspath(TLS_FILES[name]) for name in ("tls_ca_file", "tls_cert", "tls_key"))
    return ["--protocol", "tls", "--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key]


if __name__ == "__main__":
    main()
