"""Counting the rows of a large source on all workers, each its share."""

from __future__ import annotations

import time
from typing import Any

from distributed import Client, get_worker, worker_client

from cosdask.data import Block, Source
from cosdask.parallel.group import ask_workers, workers_of
from cosdask.parallel.link import live_run
from cosdask.parallel.waiting import results_of


def counted(source: Source) -> Source:
    """On a worker: the source with its rows counted, by all workers that are not training where there are many.

    Raises:
        DataError, StorageError: rows that cannot be counted.
        DeadlineError: other workers did not answer.
    """
    if _is_on_worker():
        for part in getattr(source, "sources", [source]):
            _count(part)
    return source


def _is_on_worker() -> bool:
    try:
        get_worker()
    except ValueError:
        return False
    return True


def _count(source: Source) -> None:
    if len(source.count_shares(2)) < 2:
        return
    # Leaves the worker's thread to its own share meanwhile.
    with worker_client() as client:
        addresses = _free_workers(client)
        shares = source.count_shares(len(addresses))
        if len(shares) < 2:
            return
        futures = [
            client.submit(
                count_share,
                source,
                share,
                workers=[address],
                allow_other_workers=True,
                pure=False,
                key=f"cosdask-count-{number}-{time.time_ns()}",
            )
            for number, (share, address) in enumerate(zip(shares, addresses, strict=False))
        ]
        counts = results_of(futures)
    source.take_counts([Block(rows, place) for found in counts for rows, place in found])


def count_share(source: Source, share: Any) -> list[tuple[int, dict[str, Any]]]:
    """On a worker: the blocks of one share, rows and place of each."""
    return [(block.rows, dict(block.place)) for block in source.count_share(share)]


def _free_workers(client: Client) -> list[str]:
    """Addresses of workers that do not train; tasks for one that does would wait for its end."""
    addresses = sorted(workers_of(client))
    training = ask_workers(client, addresses, live_run)
    return [address for address in addresses if not training.get(address)]
