"""``cosdask package``: the environment archive for YARN's containers."""

from __future__ import annotations

import argparse
import getpass
import os
from collections.abc import Sequence

from cosdask.config import FlagParser

_ABOUT = """Pack this Python's environment for YARN's containers and put it into HDFS, under the hash of its content:
an environment that has not changed is packed once. Nodes keep it unpacked between applications."""

_EXAMPLES = """  cosdask package
  cosdask submit --environment "$(cosdask package)" --workers 4 -- run ..."""


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; prints the archive's URL; returns the exit code."""
    flags = FlagParser(
        prog="cosdask package",
        description=_ABOUT,
        epilog=f"examples:\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    user = os.environ.get("HADOOP_USER_NAME") or getpass.getuser()
    place = f"hdfs:///user/{user}/environments"
    flags.add_argument("--output", default=place, metavar="DIR", help=f"where it goes (default {place})")
    flags.add_argument("--prefix", default=None, metavar="DIR", help="another virtual environment than this one")
    given = flags.parse(words)
    from cosdask.cluster.package import package

    name, _ = package(given.output, given.prefix)
    print(name)
    return 0
