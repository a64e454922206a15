"""Whether the workers see the data."""

from __future__ import annotations

import time
from typing import Any

from distributed import Client

from cosdask.data import Source
from cosdask.errors import DataError, StorageError
from cosdask.parallel.group import Member
from cosdask.parallel.waiting import results_of


def check_data(client: Client, members: list[Member], specs: list[dict[str, Any]]) -> None:
    """Every member must see the data; rows that were brought to the workers one by one need no look.

    Raises:
        DataError: naming the host and path, with the remedy.
    """
    specs = [spec for spec in specs if not spec.get("table")]
    if not specs:
        return
    futures = [
        client.submit(
            check_visible,
            specs,
            workers=[member.address],
            allow_other_workers=True,
            pure=False,
            key=f"cosdask-check-data-{rank}-{time.time_ns()}",
        )
        for rank, member in enumerate(members)
    ]
    for member, problems in zip(members, results_of(futures), strict=True):
        if problems:
            raise DataError(
                f"worker {member.worker} at {member.host} cannot read the data: {problems[0]} "
                "A path without a scheme is local to each worker: put the data on a filesystem that all workers see "
                "and name it by URL (hdfs://, s3://, file:// on shared storage).",
                host=member.host,
            )


def check_visible(specs: list[dict[str, Any]]) -> list[str]:
    """On a worker: what this worker cannot see of the sources, or sees otherwise than they were counted."""
    problems = []
    for spec in specs:
        source = Source.from_spec(spec)
        try:
            next(iter(source.read(0, min(1, source.rows))), None)
        except StorageError as error:
            problems.append(error.message)
    return problems
