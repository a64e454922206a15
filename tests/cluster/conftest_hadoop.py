"""Helpers of the tests over a real Hadoop."""

from __future__ import annotations

from cosdask.cli.main import main


def run_cosdask(*words: str) -> int:
    """The command line, in this process; returns the exit code."""
    return main(words)
