"""``--cluster``: where a command's workers come from."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Any

from cosdask.config import Config
from cosdask.errors import ConfigError, DeadlineError, did_you_mean

HELP = (
    "workers: local (one a GPU, else sensible for the cores; the default), local[N], or the address of a running "
    "Dask scheduler such as tcp://host:8786"
)


@contextlib.contextmanager
def connect(cluster: str, config: Config) -> Iterator[Any]:
    """A Dask client for the cluster that ``--cluster`` names; workers started for it end with it.

    Raises:
        ConfigError: a word that names no cluster, or one with fewer workers than ``-clusterSize``.
        DeadlineError: no scheduler answers at the address within ``worker_deadline`` seconds.
    """
    if "://" in cluster:
        with _client(cluster, config.worker_deadline) as client:
            yield client
        return
    workers = local_workers(cluster, config.clusterSize)
    from cosdask.cluster import LocalCluster

    # What fails on a worker is raised here, too: its log would say the same once more, with a traceback.
    with (
        LocalCluster(n_workers=workers, silence_logs=logging.CRITICAL) as local,
        _client(local, config.worker_deadline) as client,
    ):
        yield client


def local_workers(cluster: str, wanted: int | None) -> int | None:
    """Workers that ``local`` or ``local[N]`` starts; None lets the machine decide.

    Raises:
        ConfigError: see :func:`connect`.

    Example:
        >>> local_workers("local[2]", None), local_workers("local", 3), local_workers("local[*]", None)
        (2, 3, None)
    """
    match = re.fullmatch(r"local(?:\[(\d+|\*)\])?", cluster)
    if not match:
        hint = did_you_mean(cluster, ["local", "local[2]"])
        raise ConfigError(f'--cluster "{cluster}" names no cluster.{hint} Give {HELP}', flag="cluster")
    if match[1] in (None, "*"):
        return wanted
    count = int(match[1])
    if count < 1:
        raise ConfigError("--cluster local[0] has no workers; local[1] is the smallest", flag="cluster")
    if wanted is not None and wanted > count:
        raise ConfigError(f"-clusterSize {wanted} is more than the {count} workers of {cluster}", flag="clusterSize")
    return count


def _client(cluster: Any, seconds: float) -> Any:
    from distributed import Client

    try:
        return Client(cluster, timeout=seconds)
    except (OSError, TimeoutError) as error:
        message = f"no Dask scheduler answered at {cluster} within {seconds:g} s ({error}); is it running there?"
        raise DeadlineError(message, address=str(cluster)) from error
