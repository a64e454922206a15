"""The flags of workers on YARN, shared by ``--cluster yarn`` and ``cosdask submit``."""

from __future__ import annotations

import argparse
from typing import Any

from cosdask.config import FlagParser
from cosdask.errors import ConfigError

#: flag, option of :class:`cosdask.YarnCluster`, placeholder, help
_FLAGS = (
    (
        "environment",
        "environment",
        "WHERE",
        "the containers' Python: an archive (hdfs://...), venv://, conda://, python://",
    ),
    ("queue", "queue", "NAME", "YARN's queue (default: default)"),
    ("worker-vcores", "worker_vcores", "N", "cores of a worker (default 1)"),
    ("worker-memory", "worker_memory", "SIZE", 'of a worker with its rank, as in 4GiB (default "2 GiB")'),
    ("worker-gpus", "worker_gpus", "N", "GPUs of a worker: 0 or 1 (default 0)"),
    ("scheduler-memory", "scheduler_memory", "SIZE", 'of the scheduler\'s container (default "1 GiB")'),
    ("node-label", "node_label", "LABEL", "run on nodes of this label only"),
    ("app-name", "name", "NAME", "the application's name (default cosdask)"),
    ("keytab", "keytab", "FILE", "log in to Kerberos with this keytab"),
    ("principal", "principal", "NAME", "whose keytab it is"),
    (
        "idle-timeout",
        "idle_timeout",
        "SECONDS",
        "the application ends when nobody was connected for so long (default 300)",
    ),
    ("yarn-deadline", "deadline", "SECONDS", "how long YARN may take to find room (default 120)"),
)
_NUMBERS: dict[str, type] = {"worker_vcores": int, "worker_gpus": int, "idle_timeout": float, "deadline": float}
_PREFIX = "yarn_"


def add_flags(flags: FlagParser) -> None:
    """Adds the flags as a group of their own; those that are not given leave no trace."""
    group = flags.add_argument_group("workers on YARN (--cluster yarn)")
    for flag, option, placeholder, text in _FLAGS:
        group.add_argument(
            f"--{flag}", dest=_PREFIX + option, metavar=placeholder, help=text, default=argparse.SUPPRESS
        )
    repeated: dict[str, Any] = {"action": "append", "default": argparse.SUPPRESS}
    group.add_argument("--env", dest="yarn_env", metavar="NAME=VALUE", help="a variable of the containers", **repeated)
    group.add_argument("--file", dest="yarn_file", metavar="FILE", help="a file for every container", **repeated)
    group.add_argument(
        "--dry-run",
        dest="yarn_dry_run",
        action="store_true",
        default=argparse.SUPPRESS,
        help="print what YARN would be asked for, and end",
    )


def take(given: dict[str, Any]) -> dict[str, Any]:
    """The options of ``YarnCluster`` among parsed flags, removed from them; ``dry_run`` may be one.

    Raises:
        ConfigError: a value that does not fit its flag.

    Example:
        >>> given = {"yarn_queue": "gpu", "yarn_worker_gpus": "1", "yarn_env": ["A=b=c"], "seed": 3}
        >>> take(given), given
        ({'queue': 'gpu', 'worker_gpus': 1, 'worker_env': {'A': 'b=c'}}, {'seed': 3})
    """
    found = {name.removeprefix(_PREFIX): given.pop(name) for name in list(given) if name.startswith(_PREFIX)}
    for name, kind in _NUMBERS.items():
        if name in found:
            try:
                found[name] = kind(found[name])
            except ValueError as error:
                flag = next(flag for flag, option, _, _ in _FLAGS if option == name)
                raise ConfigError(f"--{flag} {found[name]} is not a number", flag=flag) from error
    if "env" in found:
        found["worker_env"] = dict(_pair(text) for text in found.pop("env"))
    if "file" in found:
        found["files"] = {path.rstrip("/").rpartition("/")[2]: path for path in found.pop("file")}
    return found


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ConfigError(f"--env {text}: write NAME=VALUE", flag="env")
    return name, value
