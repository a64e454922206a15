"""Workers on this machine."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import weakref
from typing import Any

import dask
import distributed
from dask.utils import parse_timedelta
from distributed.core import Status
from distributed.deploy.cluster import Cluster

from cosdask.cluster.gpus import even_shares
from cosdask.cluster.names import TICK
from cosdask.cluster.preload import LOCKS, SHARES
from cosdask.device import cpu_count, gpu_names

_TICK = "distributed.admin.tick.interval"


class LocalCluster(distributed.LocalCluster):
    """A ``distributed.LocalCluster`` shaped for training: a process a worker, one GPU or a share of the cores each.

    Each worker sees GPUs of its own (``CUDA_VISIBLE_DEVICES``): one, or an even share where there are fewer workers
    than GPUs. More workers than GPUs see all of them.

    Args:
        n_workers: default: one a GPU; without GPUs one for each eight cores, for a rank uses several cores better than
            several ranks do.
        threads_per_worker: CPU threads of a worker and of its rank; default: the cores shared out evenly.
        **keywords: as of ``distributed.LocalCluster``; it listens on loopback, and shows its dashboard on a free port.

    Example:
        >>> with LocalCluster(n_workers=1) as cluster, distributed.Client(cluster) as client:
        ...     client.submit(sum, [1, 2]).result()
        3
    """

    def __init__(self, n_workers: int | None = None, threads_per_worker: int | None = None, **keywords: Any) -> None:
        gpus = gpu_names()
        workers = n_workers if n_workers is not None else len(gpus) or max(1, cpu_count() // 8)
        threads = threads_per_worker or max(1, cpu_count() // max(1, workers))
        # XLA takes its number of threads from NPROC: work in Dask's own tasks shall not take every worker's cores
        environment = {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads)}
        given = keywords.pop("env", {})
        shares = even_shares(gpus, workers) if "CUDA_VISIBLE_DEVICES" not in given else []
        # also where there are none: this process may itself be a worker that was told of some
        environment |= {SHARES: ";".join(shares), LOCKS: self._locks() if shares else "", **given}
        with dask.config.set({_TICK: _slower(dask.config.get(_TICK))}):
            super().__init__(
                n_workers=workers,
                threads_per_worker=threads,
                processes=True,
                host=keywords.pop("host", "127.0.0.1"),
                dashboard_address=keywords.pop("dashboard_address", "127.0.0.1:0"),
                # a rank is a child process, which Dask's memory limit does not see
                memory_limit=keywords.pop("memory_limit", 0),
                env=environment,
                preload=[*keywords.pop("preload", []), "cosdask.cluster.preload"],
                **keywords,
            )

    def _update_worker_status(self, op: str, msg: str) -> None:
        """A worker came or went; one that went is its nanny's business as long as that lives.

        Dask looks 15 s after a death whether the worker is there, and closes its nanny where it is not: for good also
        where a second death, a moment ago, has just sent the nanny to start it again.
        """
        if op == "remove":
            name = self.scheduler_info["workers"][msg]["name"]
            delay = parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout"))
            asyncio.get_running_loop().call_later(delay, self._forget, name)
        Cluster._update_worker_status(self, op, msg)  # past SpecCluster's

    def _forget(self, name: Any) -> None:
        """A nanny that has ended makes room, so that ``scale`` starts another."""
        nanny = self.workers.get(name)
        if nanny is not None and nanny.status in (Status.closed, Status.failed):
            del self.workers[name]

    def _locks(self) -> str:
        """A folder in which the workers claim their GPUs; it goes with this object."""
        folder = tempfile.mkdtemp(prefix="cosdask-gpus-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder


def _slower(tick: str) -> str:
    """Dask's own pace made slower; one that the user has chosen stays."""
    return TICK if tick == "20ms" else tick
