"""``cosdask logs``: print what an application's containers printed."""

from __future__ import annotations

from collections.abc import Sequence

from cosdask.cli.applications import parse


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    given = parse("logs", "Print what an application's containers printed, running or not.", words)
    from cosdask.cluster.yarn_logs import application_logs

    for name, text in application_logs(given.application).items():
        print(f"==== {name}\n{text}\n")
    return 0
