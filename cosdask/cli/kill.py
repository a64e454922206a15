"""``cosdask kill``: end an application on YARN."""

from __future__ import annotations

from collections.abc import Sequence

from cosdask.cli.applications import parse


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    given = parse("kill", "End an application; its containers and the files it carried go with it.", words)
    from cosdask.cluster.submission import kill
    from cosdask.cluster.yarn_client import yarn_client
    from cosdask.cluster.yarn_logs import check_application_id

    name = check_application_id(given.application)
    with yarn_client() as client:
        before = kill(client, name)
    print(
        f"{name} was {before.lower()} and is ended"
        if before in ("ACCEPTED", "RUNNING")
        else f"{name}: {before.lower()}"
    )
    return 0
