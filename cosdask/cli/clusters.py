"""``--cluster``: where a command's workers come from."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cosdask.config import Config
from cosdask.errors import ConfigError, DeadlineError, did_you_mean

HELP = (
    "workers: local (one a GPU, else sensible for the cores; the default), local[N], yarn[N], or the address of a "
    "running Dask scheduler such as tcp://host:8786"
)


@dataclass(frozen=True)
class Where:
    """What ``--cluster`` says, and the flags of workers on YARN.

    Attributes:
        word: as given.
        yarn: options of ``YarnCluster``.
    """

    word: str
    yarn: Mapping[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def connect(cluster: str | Where, config: Config) -> Iterator[Any]:
    """A Dask client for the cluster that ``--cluster`` names; workers started for it end with it.

    Raises:
        ConfigError: a word that names no cluster, or one with fewer workers than ``-clusterSize``.
        DeadlineError: no scheduler answers at the address within ``worker_deadline`` seconds.
    """
    where = cluster if isinstance(cluster, Where) else Where(cluster)
    cluster = where.word
    workers = yarn_workers(where, config)
    if workers is not None:
        with _on_yarn(where, workers, config) as client:
            yield client
        return
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


def yarn_workers(where: Where, config: Config) -> int | None:
    """Workers that ``yarn`` or ``yarn[N]`` starts; None for another word.

    Raises:
        ConfigError: no number, or flags of YARN's for workers elsewhere.
    """
    match = re.fullmatch(r"yarn(?:\[(\d+)\])?", where.word)
    if not match:
        if where.yarn:
            flags = ", ".join(name.replace("_", "-") for name in where.yarn)
            raise ConfigError(f"--cluster {where.word} has no use for {flags}; did you mean --cluster yarn?")
        return None
    workers = int(match[1] or 0) or config.clusterSize
    if not workers:
        raise ConfigError("--cluster yarn: how many workers? Give yarn[N], or -clusterSize N", flag="cluster")
    if config.clusterSize and config.clusterSize > workers:
        raise ConfigError(f"-clusterSize {config.clusterSize} is more than the {workers} workers of {where.word}")
    return workers


def dry_run(where: Where, config: Config) -> str:
    """What YARN would be asked for, as YAML."""
    workers = yarn_workers(where, config)
    if workers is None:
        raise ConfigError(f"--dry-run is for --cluster yarn, not for {where.word}", flag="dry-run")
    from cosdask.cluster.yarn import YarnCluster

    apart = ("dry_run", "deadline", "keytab", "principal")
    return YarnCluster.dry_run(workers, **{name: value for name, value in where.yarn.items() if name not in apart})


@contextlib.contextmanager
def _on_yarn(where: Where, workers: int, config: Config) -> Iterator[Any]:
    from cosdask.cluster.yarn import YarnCluster

    with YarnCluster(workers, **where.yarn) as cluster:
        print(f"cosdask: {cluster.app_id}, dashboard {cluster.dashboard_link}", file=sys.stderr)
        needed = config.min_workers or workers
        cluster.wait_for_workers(needed, max(config.worker_deadline, where.yarn.get("deadline", 0.0)))
        with _client(cluster, config.worker_deadline) as client:
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
        hint = did_you_mean(cluster, ["local", "local[2]", "yarn"])
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
