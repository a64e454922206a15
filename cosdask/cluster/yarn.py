"""Dask workers in YARN's containers."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import distributed
from distributed.core import Status, rpc
from distributed.utils import get_ip

from cosdask.cluster import yarn_client
from cosdask.cluster.names import SCHEDULER, SIGN_OF_LIFE, TLS_FILES, WORKER
from cosdask.cluster.yarn_compat import dask_yarn_core, skein
from cosdask.cluster.yarn_logs import application_logs
from cosdask.cluster.yarn_spec import check_remote_files, hadoop_setting, spec_text, specification, yarn_options
from cosdask.errors import ClusterError, ConfigError, DeadlineError

#: seconds between two signs of life to the scheduler
_SIGN = 5.0
_Base: Any = dask_yarn_core().YarnCluster


class YarnCluster(_Base):
    """A Dask cluster whose workers run in containers of a YARN application.

    Every worker is one container, named as YARN's application names it (``dask.worker_0``), with a nanny; a rank runs
    inside it as a child, so the container's memory holds both. The application ends with this object, or when nobody
    has been connected for ``idle_timeout`` seconds.

    Args:
        n_workers: worker containers to start with.
        environment: the containers' Python; :class:`cosdask.cluster.yarn_spec.YarnOptions` explains it and lists all
            options.
        worker_vcores: cores of a worker.
        worker_memory: of a worker's container, its rank included.
        worker_gpus: 0 or 1.
        queue: YARN's queue.
        deadline: seconds that YARN has to start the application, and it its scheduler.
        security: a ``distributed.Security`` with TLS files or texts; its files go to the containers.
        keytab: log in to Kerberos with this file, as ``principal``; default: the tickets there are.
        principal: see ``keytab``.
        host: where the scheduler listens if it runs in the client; default: the address that reaches the NameNode.
        asynchronous: for use in async code.
        **options: further fields of ``YarnOptions``.

    Raises:
        ConfigError, StorageError: for what cannot work, before anything is submitted.
        ClusterError: YARN or a container said no; the message has its words.
        DeadlineError: no room in time; the message says what is waited for.

    Example:
        >>> "queue: research" in YarnCluster.dry_run(2, environment="python:///usr/bin/python3", queue="research")
        True
    """

    spec: Any
    scheduler_comm: Any
    application_client: Any
    _finalizer: Any
    _scheduler: Any
    _stop_task: Any
    _start_task: Any
    _host: str | None
    _secrets: tempfile.TemporaryDirectory[str] | None
    _signs: asyncio.Task[None] | None
    _own_client: Any

    def __init__(
        self,
        n_workers: int,
        *,
        environment: str | None = None,
        worker_vcores: int = 1,
        worker_memory: str | int = "2 GiB",
        worker_gpus: int = 0,
        queue: str = "default",
        deadline: float = 120.0,
        security: distributed.Security | None = None,
        keytab: str | None = None,
        principal: str | None = None,
        host: str | None = None,
        asynchronous: bool = False,
        **options: Any,
    ) -> None:
        self._prepare(deadline, security, keytab, principal)
        if security is not None:
            self._secrets = tempfile.TemporaryDirectory(prefix="cosdask-tls-")
            options["tls"] = _tls_files(security, Path(self._secrets.name))
        asked = yarn_options(
            n_workers=n_workers,
            environment=environment,
            worker_vcores=worker_vcores,
            worker_memory=worker_memory,
            worker_gpus=worker_gpus,
            queue=queue,
            **options,
        )
        self._host = host
        self._init_common(spec=specification(asked), asynchronous=asynchronous)

    @classmethod
    def from_application_id(
        cls,
        app_id: str,
        *,
        deadline: float = 120.0,
        security: distributed.Security | None = None,
        keytab: str | None = None,
        principal: str | None = None,
        asynchronous: bool = False,
    ) -> YarnCluster:
        """Comes back to a cluster that another process started; it does not end with this object.

        Raises:
            ConfigError: YARN knows no such application.
            ClusterError: it has ended, or is no cluster of Dask workers.
        """
        self: YarnCluster = object.__new__(cls)
        self._prepare(deadline, security, keytab, principal)
        client = self._yarn()
        state = str(yarn_client.report_of(client, app_id).state)
        if state != "RUNNING":
            client.close()
            raise ClusterError(f"{app_id} is {state.lower()}, there is nothing to come back to", application=app_id)
        with yarn_client.talking(f"connecting to {app_id}"):
            application = client.connect(app_id)
        self._init_common(application_client=application, asynchronous=asynchronous)
        return self

    @staticmethod
    def dry_run(n_workers: int, **options: Any) -> str:
        """The exact application specification that these options would submit, as YAML; nothing is started."""
        text: str = spec_text(specification(yarn_options(n_workers=n_workers, **options)))
        return text

    def describe(self) -> str:
        """The exact application specification that was submitted, as YAML."""
        text: str = spec_text(self.spec)
        return text

    @property
    def status(self) -> Status:
        """Where the cluster is in its life; ``distributed.Client`` asks for it."""
        if self._stop_task is not None:
            return Status.closed if self._stop_task.done() else Status.closing
        return Status.running if self._start_task is not None and self._start_task.done() else Status.created

    def logs(self, scheduler: bool = True, workers: bool = True) -> dict[str, str]:
        """What the containers printed so far, by ``container host file``, through Hadoop's own reader.

        Args:
            scheduler: with the scheduler's, where it has a container.
            workers: with the workers'.
        """
        wanted = {"dask.scheduler": scheduler, "dask.worker": workers}
        found = application_logs(self.app_id)
        return {key: text for key, text in found.items() if wanted.get(key.split()[-1].removesuffix(".log"), True)}

    def wait_for_workers(self, n_workers: int, deadline: float = 120.0) -> None:
        """Waits until so many workers are there.

        Raises:
            ClusterError: the application ended meanwhile.
            DeadlineError: too few in time; says what the containers wait for.
        """
        ends = time.monotonic() + deadline
        while len(self._observed) < n_workers:
            state = str(yarn_client.report_of(self._yarn(), self.app_id).state)
            if state != "RUNNING":
                raise yarn_client.ended_error(self._yarn(), self.app_id)
            if time.monotonic() > ends:
                raise DeadlineError(
                    f"{len(self._observed)} worker(s) of {n_workers} came within {deadline:.0f} s. "
                    f"{yarn_client.containers_in_words(self.application_client)} What they printed: cosdask logs "
                    f"{self.app_id}",
                    application=self.app_id,
                )
            time.sleep(0.1)

    def adapt(self, *_: Any, **__: Any) -> NoReturn:
        """Always refused: a training holds its workers from the first step to the last.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a YarnCluster does not adapt: a training keeps its workers. Call scale(n) between trainings")

    # -- start and end -----------------------------------------------------------------------------------------------

    def _prepare(self, deadline: float, security: Any, keytab: str | None, principal: str | None) -> None:
        self.security = security or distributed.Security()
        self._deadline, self._login = deadline, (keytab, principal)
        self._host = self._secrets = self._signs = self._own_client = None

    def _yarn(self) -> Any:
        """This object's client program of YARN, started on the first call."""
        if self._own_client is None:
            self._own_client = yarn_client.yarn_client(*self._login)
        return self._own_client

    async def _start_async(self) -> None:
        if self.spec is None:
            await self.loop.run_in_executor(None, self._connect_existing)
        else:
            if SCHEDULER not in self.spec.services:
                self._scheduler = await self._scheduler_here()
            await self.loop.run_in_executor(None, self._start_cluster)
        self.scheduler_comm = rpc(self.scheduler_address, connection_args=self.security.get_connection_args("client"))
        comm = await self.scheduler_comm.live_comm()
        await comm.write({"op": "subscribe_worker_status"})
        self.scheduler_info = await comm.read()
        self._watch_worker_status_task = asyncio.ensure_future(self._watch_worker_status(comm))
        if self._scheduler is None:
            self._signs = asyncio.ensure_future(_give_signs(weakref.ref(self)))

    async def _scheduler_here(self) -> Any:
        """Dask's scheduler in this process."""
        host = self._host or _own_address()
        secure = bool(self.spec.services[WORKER].script.count("--tls"))
        return await distributed.Scheduler(
            host=host,
            port=0,
            protocol="tls" if secure else "tcp",
            security=self.security,
            dashboard_address=f"{host}:0",
        )

    def _start_cluster(self) -> None:
        client = self._yarn()
        check_remote_files(self.spec)
        with yarn_client.talking(f"submitting to the queue {self.spec.queue}"):
            try:
                application = client.submit(self.spec)
            except ValueError as error:
                raise ConfigError(f"YARN refuses the application: {str(error).splitlines()[0]}") from error
        try:
            yarn_client.wait_until_running(client, application, self._deadline)
            with yarn_client.talking(f"connecting to {application}"):
                app = client.connect(application)
            self.scheduler_address, self._dashboard_address = self._meet(client, app)
        except BaseException:
            client.kill_application(application)
            yarn_client.remove_staging(yarn_client.wait_until_ended(client, application))
            raise
        self._finalizer = weakref.finalize(self, _shut_down, app)
        self.application_client = app

    def _meet(self, client: Any, app: Any) -> tuple[str, str | None]:
        """The addresses of scheduler and dashboard; one of this process is told to the containers."""
        if self._scheduler is not None:
            address = self._scheduler.address
            dashboard = f"http://{urlsplit(address).hostname}:{self._scheduler.http_server.port}"
            app.kv["dask.dashboard"] = dashboard.encode()
            app.kv["dask.scheduler"] = address.encode()
            return address, dashboard
        address = yarn_client.wait_for_key(client, app, "dask.scheduler", self._deadline)
        found = app.kv.get("dask.dashboard")
        return address, None if found is None else found.decode()

    async def _stop_async(self, status: str = "SUCCEEDED", diagnostics: str | None = None) -> None:
        if self._signs is not None:
            self._signs.cancel()
        comm, self.scheduler_comm = self.scheduler_comm, None
        if comm is not None:
            await comm.close_rpc()
        await super()._stop_async(status=status, diagnostics=diagnostics)

    def _stop_sync(self, status: str = "SUCCEEDED", diagnostics: str | None = None) -> None:
        try:
            if self._finalizer is not None and self._finalizer.detach() is not None:
                _shut_down(self.application_client, status, diagnostics)
                yarn_client.remove_staging(yarn_client.wait_until_ended(self._yarn(), self.app_id))
        finally:
            self._finalizer = None
            for held in (self.application_client, self._own_client):
                if held is not None:
                    held.close()
            self._own_client = None
            if self._secrets is not None:
                self._secrets.cleanup()

    def shutdown(self, status: str = "SUCCEEDED", diagnostics: str | None = None) -> Any:
        """Ends the application and waits until it is gone; a second call does nothing.

        Args:
            status: ``SUCCEEDED``, ``FAILED`` or ``KILLED``: what YARN shall show.
            diagnostics: why, for YARN's pages.
        """
        if not self.asynchronous and self._stop_task is not None and self._stop_task.done():
            return None
        return super().shutdown(status=status, diagnostics=diagnostics)

    # -- scaling -----------------------------------------------------------------------------------------------------

    async def _scale(self, n: int) -> None:
        """More workers are asked of YARN; of too many those go first that do not run yet, then the youngest."""
        application = self.application_client
        found = await self.loop.run_in_executor(None, lambda: application.get_containers(services=[WORKER]))
        if n >= len(found):
            await self.loop.run_in_executor(None, lambda: application.scale(WORKER, n))
            return
        ordered = sorted(found, key=lambda container: (str(container.state) == "RUNNING", -container.instance))
        leaving = [container.id for container in ordered[: len(found) - n]]
        # their data go to the workers that stay
        await self.scheduler_comm.retire_workers(names=leaving)
        await self.loop.run_in_executor(None, lambda: _kill(application, leaving))


async def _give_signs(reference: weakref.ref[Any]) -> None:
    """Shows the scheduler that the cluster object is there, until it is not."""
    while True:
        cluster = reference()
        if cluster is None or cluster.scheduler_comm is None:
            return
        try:
            await getattr(cluster.scheduler_comm, SIGN_OF_LIFE)()
        except OSError:
            return  # the scheduler is gone; whoever uses the cluster hears of it there
        del cluster
        await asyncio.sleep(_SIGN)


def _shut_down(application: Any, status: str = "SUCCEEDED", diagnostics: str | None = None) -> None:
    """Ends an application; one that has ended already is as it should be."""
    try:
        application.shutdown(status=status, diagnostics=diagnostics)
    except skein().exceptions.ConnectionError:
        return


def _kill(application: Any, containers: list[str]) -> None:
    running = {container.id for container in application.get_containers(services=[WORKER])}
    for name in containers:
        if name in running:
            application.kill_container(name)


def _own_address() -> str:
    """This machine's address on the way to the cluster, which is where its nodes reach it."""
    manager = hadoop_setting("yarn-site.xml", "yarn.resourcemanager.hostname")
    namenode = urlsplit(hadoop_setting("core-site.xml", "fs.defaultFS")).hostname
    try:
        return str(get_ip(manager or namenode or "8.8.8.8"))
    except OSError as error:
        raise ConfigError(f"this machine's address could not be found ({error}); give it with host=") from error


def _tls_files(security: Any, folder: Path) -> Mapping[str, str]:
    """The PEM files of a ``Security``; texts are written to a folder that only this user can read."""
    values = {
        "tls_ca_file": security.tls_ca_file,
        "tls_cert": security.tls_worker_cert,
        "tls_key": security.tls_worker_key,
    }
    files = {}
    for name, value in values.items():
        if not value:
            raise ConfigError(f"security has no {name.replace('tls_', 'tls_worker_')}: the containers need it for TLS")
        if "\n" not in value:
            files[name] = os.path.abspath(value)
            continue
        path = folder / TLS_FILES[name]
        path.touch(mode=0o600)
        path.write_text(value)
        files[name] = str(path)
    return files
