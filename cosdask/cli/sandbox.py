"""``cosdask sandbox``: a small real Hadoop on this machine, for trying everything."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from cosdask.config import FlagParser
from cosdask.errors import ConfigError, did_you_mean

_ABOUT = """Start, look at and end a small real Hadoop (HDFS and YARN) on this machine, all of it on loopback.

It needs Java 17, and Maven to fetch Hadoop's jars once (91 MB)."""

_EXAMPLES = """  cosdask sandbox start        starts it (about 15 s) and prints what to export
  eval "$(cosdask sandbox env)"    points this shell's commands at it
  cosdask sandbox status
  cosdask sandbox stop         ends it and deletes what it kept"""

_ACTIONS = ("start", "stop", "status", "env")


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code: for ``status`` 1 where a daemon is missing."""
    given = _flags().parse(words)
    if given.action not in _ACTIONS:
        hint = did_you_mean(given.action, _ACTIONS)
        raise ConfigError(f'"{given.action}" is none of {", ".join(_ACTIONS)}.{hint}', flag="action")
    from cosdask.cluster.sandbox import Sandbox

    if given.action == "start":
        started = Sandbox.start(given.dir, given.datanodes, given.nodemanagers, given.memory, given.cores)
        print(f"HDFS: {started.namenode}  YARN: {started.state['manager_http']}  files: {started.folder}")
        print(f'Point your shell at it with:\n  eval "$(cosdask sandbox env{_named(given.dir)})"')
        return 0
    sandbox = Sandbox.attach(given.dir)
    if given.action == "stop":
        sandbox.remove()
        print(f"stopped; {sandbox.folder} is removed")
        return 0
    if given.action == "env":
        settings = sandbox.environment()
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in settings.items()))
        return 0
    status = sandbox.status()
    print("\n".join(f"{name:5} {said}" for name, said in status.items()))
    return 1 if "not running" in status.values() else 0


def _flags() -> FlagParser:
    flags = FlagParser(
        prog="cosdask sandbox",
        description=_ABOUT,
        epilog=f"examples:\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="cosdask sandbox start|stop|status|env [flags]",
    )
    flags.add_argument("action", metavar="start|stop|status|env", help="what to do")
    flags.add_argument("--dir", default=None, help="its folder (default: in the user's cache folder)")
    flags.add_argument("--datanodes", type=int, default=2, metavar="N", help="HDFS DataNodes (default 2)")
    flags.add_argument("--nodemanagers", type=int, default=2, metavar="N", help="YARN NodeManagers (default 2)")
    flags.add_argument("--memory", type=int, default=4096, metavar="MIB", help="MiB a NodeManager (default 4096)")
    flags.add_argument("--cores", type=int, default=4, metavar="N", help="virtual cores a NodeManager (default 4)")
    return flags


def _named(folder: str | None) -> str:
    return f" --dir {shlex.quote(folder)}" if folder else ""
