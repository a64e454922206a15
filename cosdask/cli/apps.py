"""``cosdask apps``: list cosdask's applications on YARN."""

from __future__ import annotations

from collections.abc import Sequence

from cosdask.cli.applications import parse


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    given = parse("apps", "List cosdask's applications on YARN.", words, named=False, all="also those that ended")
    from cosdask.cluster.submission import applications
    from cosdask.cluster.yarn_client import yarn_client

    with yarn_client() as client:
        found = applications(client, everything=given.all)
    if not found:
        print(
            "no application of cosdask's" + ("" if given.all else " is running; those that ended: cosdask apps --all")
        )
    for report in found:
        state = str(report.state) if str(report.final_status) == "UNDEFINED" else str(report.final_status)
        started = f"{report.start_time:%Y-%m-%d %H:%M}" if report.start_time else "-"
        print(f"{report.id}  {state:9}  {report.queue:12}  {report.user:12}  {started}  {report.name}")
    return 0
