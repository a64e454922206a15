"""What more workers give: 1, 2 and 4 workers of one core against one process with as many threads.

``python -m benchmarks.scaling [NET...]`` prints the table's rows. Each worker has its own batch; the one process (the
bare ``Solver`` loop) makes steps with the batch of all of them together, on as many threads. Its memory comes in large
pages as that of a rank does, so that the rows show what the group costs, not what the pages give. More workers than
the machine has cores share them, and so do as many threads of the one process.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace

from benchmarks.cases import Case
from benchmarks.measure import cores
from benchmarks.run import cpu_model, run_side, summarize
from cosdask.parallel.spares import environment

HEADER = (
    "| net | workers | rows/s, workers: median (best) | rows/s, one process | efficiency: median (by the best) |\n"
    "|---|---|---|---|---|"
)
DEADLINE = 600.0


@dataclass(frozen=True)
class Net:
    """A net to measure, and how long."""

    title: str
    batch: int
    steps: int
    chunk: int
    warmup: int


# warm-ups go on until the spare processes are there, which each worker starts once when a run has lasted ten seconds
NETS = {
    "lenet": Net("LeNet", batch=64, steps=400, chunk=20, warmup=400),
    "cifar10": Net("CIFAR-10 quick", batch=100, steps=40, chunk=5, warmup=70),
    "caffenet": Net("CaffeNet", batch=16, steps=8, chunk=1, warmup=14),
}


def row(name: str, net: Net, workers: int, repetitions: int) -> str:
    """Let both sides take turns, and write their row."""
    case = Case(
        name=name,
        title=net.title,
        net=name,
        ours="benchmarks.side_dask",
        other="benchmarks.side_solver",
        batch=workers * net.batch,
        steps=net.steps,
        chunk=net.chunk,
        warmup=net.warmup,
        goal=0.9,
        workers=workers,
        threads=1,
    )
    # a rank that is alone or has a core for itself is no slower for more workers; four on two cores are
    if workers > cores():
        case = replace(case, steps=max(case.chunk, case.steps // (2 * case.chunk) * case.chunk))
    os.environ.update(environment(workers))
    times: dict[str, list[float]] = {"ours": [], "other": []}
    for turn in range(repetitions):
        for side in ("ours", "other") if turn % 2 == 0 else ("other", "ours"):
            module = case.ours if side == "ours" else case.other
            times[side].extend(run_side(module, case.arguments(), DEADLINE)["seconds"])
    found = summarize(times["ours"], times["other"])
    rates = [1e3 * case.batch / ms for ms in (found.ours_median, found.ours_least, found.other_median)]
    return (
        f"| {net.title}, batch {net.batch} a worker | {workers} | {rates[0]:.0f} ({rates[1]:.0f}) | {rates[2]:.0f} | "
        f"{found.rate_median:.2f} ({found.rate_least:.2f}) |"
    )


def main() -> None:
    """Measure the chosen nets and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", choices=list(NETS), metavar="NET", help="default: all")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], metavar="N")
    parser.add_argument("--repetitions", type=int, default=2, metavar="N")
    options = parser.parse_args()
    print(HEADER, flush=True)
    for name in options.nets or NETS:
        for workers in options.workers:
            print(row(name, NETS[name], workers, options.repetitions), flush=True)
    print(f"\n{cores()} cores, {cpu_model()}")


if __name__ == "__main__":
    main()
