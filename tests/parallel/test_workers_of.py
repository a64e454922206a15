"""Which workers there are, as the scheduler says it."""

from __future__ import annotations

import dask
from distributed import Client

from cosdask.cluster import LocalCluster
from cosdask.parallel.group import workers_of


def test_workers_do_not_vanish_while_the_client_asks_for_something_else() -> None:
    """Dask's client asks for a summary without workers again and again; its answers must not be taken for ours, or a
    busy machine loses ranks that live (invariant 5)."""
    with (
        dask.config.set({"distributed.client.scheduler-info-interval": "1ms"}),
        LocalCluster(n_workers=1) as cluster,
        Client(cluster) as client,
    ):
        assert [len(workers_of(client)) for _ in range(300)] == [1] * 300
