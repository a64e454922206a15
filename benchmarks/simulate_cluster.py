"""A model of training on up to 1,024 GPUs, from costs that were measured: what a step loses, and what breaks first.

``python -m benchmarks.simulate_cluster`` prints the tables of docs/scaling.md; ``--seed`` gives other draws. Times are
seconds. What is measured and what is assumed stands beside each constant.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

SIZES = (1, 8, 64, 256, 1024)
DAY = 86400.0


@dataclass(frozen=True)
class Machine:
    """What the model takes as given.

    Attributes:
        per_host: GPUs of a host.
        link: bytes a second of each host's network card. Assumed: 100 Gbit/s, 80 % of it usable.
        inside: bytes a second between the GPUs of a host. Assumed: NVLink's usual all-reduce rate.
        hop: seconds that a message takes to the next host. Assumed.
        spread: standard deviation of a rank's step time over its mean. Assumed; measured on shared machines: more.
        days_between_failures: of one host. Assumed, the order that operators of large clusters report.
        notice: seconds from a death to the client's knowing. Measured (benchmarks/README.md, "After a death").
        start: seconds that a rank needs to begin in a new process. Measured there on two cores: 4.5 to 6.
        replace: seconds until YARN has another container on another host. Measured (docs/yarn.md): 6 to 14.
        plan: seconds of the driver's work before ranks begin, with 100,000 partitions; it hardly grows with ranks.
            Measured (``python -m benchmarks.planning``).
        send: seconds that the scheduler needs to pass a rank its job of that size on. Measured there.
        join: seconds a rank adds to the rendezvous at one coordinator. Assumed; the coordinator takes them one by one.
        store: bytes a second at which rank 0 writes a snapshot. Assumed: one HDFS pipeline.
        replicas: hosts that have the checkpoint, which every rank reads. Assumed: HDFS's default, each as fast as its
            network card.
        checkpoint: seconds between automatic checkpoints: the default.
    """

    per_host: int = 8
    link: float = 100e9 / 8 * 0.8
    inside: float = 150e9
    hop: float = 10e-6
    spread: float = 0.03
    days_between_failures: float = 500.0
    notice: float = 0.2
    start: float = 6.0
    replace: float = 14.0
    plan: float = 1.1
    send: float = 0.007
    join: float = 0.004
    store: float = 400e6
    replicas: int = 3
    checkpoint: float = 300.0


@dataclass(frozen=True)
class Job:
    """A net on one GPU.

    Attributes:
        name: shown.
        weights: number of weights, float32.
        step: seconds of a step of one GPU alone. Assumed: what such GPUs reach in TF32.
        bits: of a gradient on the wire.
    """

    name: str
    weights: float
    step: float
    bits: int = 32

    @property
    def checkpoint(self) -> float:
        """Bytes of a checkpoint: weights and momentum."""
        return 2 * 4 * self.weights


JOBS = (
    Job("CaffeNet, batch 256", 61e6, 0.060),
    Job("CaffeNet, batch 256, --wire bfloat16", 61e6, 0.060, bits=16),
    Job("ResNet-50, batch 128", 25.6e6, 0.110),
    Job("GoogLeNet, batch 128", 7.0e6, 0.055),
)


def exchange(job: Job, machine: Machine, gpus: int) -> float:
    """Seconds of a ring all-reduce: inside hosts first, then one ring over hosts (Patarasuk and Yuan, 2009)."""
    size = job.weights * job.bits / 8
    local = min(gpus, machine.per_host)
    hosts = max(1, gpus // machine.per_host)
    within = 2 * (local - 1) / local * size / machine.inside
    between = 2 * (hosts - 1) / hosts * size / machine.link + 2 * (hosts - 1) * machine.hop
    return within + (between if hosts > 1 else 0.0)


def slowest(machine: Machine, gpus: int, random: np.random.Generator) -> float:
    """Mean of the slowest rank's step over the mean step: every step waits for it."""
    draws = random.lognormal(-(machine.spread**2) / 2, machine.spread, size=(200, gpus))
    return float(draws.max(axis=1).mean())


def regrouping(job: Job, machine: Machine, gpus: int) -> dict[str, float]:
    """Seconds that the parts of a restart take after the death of a host, without the work that is done again."""
    size = job.checkpoint
    return {
        "notice": machine.notice,
        "a new container": machine.replace,
        "planning": machine.plan,
        "sending jobs": machine.send * gpus,
        "start of the ranks": machine.start,
        "rendezvous": machine.join * gpus,
        "reading the checkpoint": max(size / machine.store, gpus * size / (machine.replicas * machine.link)),
    }


@dataclass(frozen=True)
class Outcome:
    """Shares of one GPU's speed that are left, and what a day brings."""

    gpus: int
    exchange: float
    step: float
    steady: float
    failures: float
    lost: float
    overall: float


def outcome(job: Job, machine: Machine, gpus: int, random: np.random.Generator) -> Outcome:
    """What a size gives: in a steady state, and over days with their failures and checkpoints."""
    talk = exchange(job, machine, gpus)
    step = job.step * slowest(machine, gpus, random) + talk
    hosts = -(-gpus // machine.per_host)
    failures = hosts / machine.days_between_failures
    writing = job.checkpoint / machine.store / machine.checkpoint
    # a failure costs the restart and, on average, half of what lies between two checkpoints
    broken = failures * (sum(regrouping(job, machine, gpus).values()) + machine.checkpoint / 2) / DAY
    lost = min(1.0, writing + broken)
    steady = job.step / step
    return Outcome(gpus, talk, step, steady, failures, lost, steady * (1 - lost))


def table(job: Job, machine: Machine, seed: int) -> Iterator[str]:
    """A job's table in Markdown."""
    yield "| GPUs | exchange, ms | step, ms | efficiency, steady | failures a day | time lost | efficiency, over days |"
    yield "|---|---|---|---|---|---|---|"
    for gpus in SIZES:
        found = outcome(job, machine, gpus, np.random.default_rng(seed))
        yield (
            f"| {gpus} | {1e3 * found.exchange:.1f} | {1e3 * found.step:.1f} | {found.steady:.2f} | "
            f"{found.failures:.2f} | {found.lost:.1%} | {found.overall:.2f} |"
        )


def restarts(job: Job, machine: Machine) -> Iterator[str]:
    """A table in Markdown of what a restart is made of, by size."""
    sizes = [size for size in SIZES if size > 1]
    parts = {size: regrouping(job, machine, size) for size in sizes}
    yield f"| a restart of {job.name}, s | " + " | ".join(f"{size} GPUs" for size in sizes) + " |"
    yield "|---|" + "---|" * len(sizes)
    for part in parts[sizes[0]]:
        yield f"| {part} | " + " | ".join(f"{parts[size][part]:.1f}" for size in sizes) + " |"
    yield "| in all | " + " | ".join(f"{sum(parts[size].values()):.1f}" for size in sizes) + " |"


def main() -> None:
    """Print every job's table, and what a slower network and less reliable hosts do to the largest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    seed = parser.parse_args().seed
    machine = Machine()
    for job in JOBS:
        print(f"\n**{job.name}**\n")
        print("\n".join(table(job, machine, seed)))
    print("\n".join(["", *restarts(JOBS[0], machine)]))
    print("\n| at 1,024 GPUs | " + " | ".join(job.name for job in JOBS) + " |\n|---|" + "---|" * len(JOBS))
    changes = {
        "as above": machine,
        "25 Gbit/s instead of 100": replace(machine, link=machine.link / 4),
        "steps spread by 10 % instead of 3 %": replace(machine, spread=0.10),
        "hosts fail every 50 days instead of 500": replace(machine, days_between_failures=50.0),
        "no automatic checkpoints, a snapshot an hour": replace(machine, checkpoint=3600.0),
    }
    for name, changed in changes.items():
        cells = [f"{outcome(job, changed, 1024, np.random.default_rng(seed)).overall:.2f}" for job in JOBS]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
