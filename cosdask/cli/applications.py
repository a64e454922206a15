"""What ``apps``, ``watch``, ``logs`` and ``kill`` share: their flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from cosdask.config import FlagParser


def parse(verb: str, about: str, words: Sequence[str], named: bool = True, **more: str) -> argparse.Namespace:
    """The flags of one of these verbs.

    Args:
        verb: its name.
        about: what it does.
        words: the words after it.
        named: whether it takes an application's id.
        **more: switches and their help.
    """
    flags = FlagParser(prog=f"cosdask {verb}", description=about)
    if named:
        flags.add_argument("application", metavar="APPLICATION", help="its id, as application_1700000000000_0001")
    for name, text in more.items():
        flags.add_argument(f"--{name}", action="store_true", help=text)
    return flags.parse(words)
