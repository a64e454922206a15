"""What the start of a large group costs the driver and the scheduler: ``python -m benchmarks.planning``.

Plans an epoch over many partitions for many ranks, as the driver does, and sends a job to each of them through a real
Dask scheduler; few workers stand in for the many, since each message is passed on by itself anyway.
"""

from __future__ import annotations

import argparse
import time

import dask
from distributed import Client, LocalCluster

from cosdask.data import Index, RowPlan
from cosdask.data.index import Block
from cosdask.parallel.job import Job

REPETITIONS = 3


def index_of(partitions: int) -> Index:
    """Partitions of ten to sixteen rows."""
    return Index(tuple(Block(10 + i % 7, {"path": f"part-{i:06d}.parquet", "group": 0}) for i in range(partitions)))


def planned(index: Index, ranks: int) -> tuple[Job, int]:
    """The job that every rank gets, and the rows of an epoch that were planned for all of them, as many for each."""
    members = [{"address": f"tcp://10.0.0.{i}:1", "worker": str(i), "host": f"10.0.0.{i}"} for i in range(ranks)]
    plan, share = RowPlan(index.rows, ranks), index.rows // ranks
    segments = [plan.segments(rank, first=0, count=share) for rank in range(ranks)]
    job = Job(
        run_id="r",
        solver="",
        source={"index": index.to_json()},
        test_sources=[],
        model="m",
        seed=1,
        world=ranks,
        members=members,
        threads=[1] * ranks,
    )
    return job, sum(segment.rows for parts in segments for segment in parts)


def sent(client: Client, text: str, ranks: int) -> float:
    """Seconds until a text has come to so many tasks."""
    began = time.perf_counter()
    futures = [client.submit(_length, text, rank, pure=False) for rank in range(ranks)]
    client.gather(futures)
    return time.perf_counter() - began


def _length(text: str, rank: int) -> int:
    return len(text)


def main() -> None:
    """Print a row a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=100_000, metavar="N")
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 256, 1024], metavar="N")
    options = parser.parse_args()
    print("| ranks | partitions | planning, s | a job, MB | sending the jobs, s |\n|---|---|---|---|---|")
    with (
        dask.config.set({"distributed.scheduler.worker-saturation": "inf"}),
        LocalCluster(n_workers=2, threads_per_worker=8, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for ranks in options.ranks:
            began = time.perf_counter()
            job, _ = planned(index_of(options.partitions), ranks)
            text = job.to_json()
            planning = time.perf_counter() - began
            sending = min(sent(client, text, ranks) for _ in range(REPETITIONS))
            size = len(text) / 1e6
            print(f"| {ranks} | {options.partitions} | {planning:.2f} | {size:.2f} | {sending:.2f} |", flush=True)


if __name__ == "__main__":
    main()
