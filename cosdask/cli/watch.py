"""``cosdask watch``: follow what a submitted command prints."""

from __future__ import annotations

from collections.abc import Sequence

from cosdask.cli.applications import parse
from cosdask.cli.submit import note, show


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code of the command that is followed."""
    given = parse("watch", "Show what a submitted command prints, from its beginning; ends with its exit code.", words)
    from cosdask.cluster.submission import follow
    from cosdask.cluster.yarn_client import yarn_client
    from cosdask.cluster.yarn_logs import check_application_id

    name = check_application_id(given.application)
    with yarn_client() as client:
        return follow(client, name, show, 120.0, note)
