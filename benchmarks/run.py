"""Runs the comparisons and prints their table: ``python -m benchmarks.run [ROW...]``.

Each side of a row is a process of its own, and the two take turns, so that what the machine does meanwhile falls on
both. The ratio counts, not the milliseconds: those are this machine's.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, Case
from benchmarks.measure import cores
from benchmarks.speed_table import DEFAULT, GOALS, RESULTS, TUNED, speed_table

_ROOT = Path(__file__).resolve().parents[1]
#: glibc's allocator keeps what is freed instead of giving it back to the system, page by page, in every step
_TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8000000000", "MALLOC_TOP_PAD_": "67108864"}
_HEADER = (
    "| row | ours, ms: median (least) | other, ms: median (least) | relative rate: median (least) | goal |\n"
    "|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Summary:
    """Two sides' times, in milliseconds a step, and how much faster ours is."""

    ours_median: float
    ours_least: float
    other_median: float
    other_least: float

    @property
    def rate_median(self) -> float:
        """Our rate divided by the other's, by medians: 2.0 means that we make twice as many steps a second."""
        return self.other_median / self.ours_median

    @property
    def rate_least(self) -> float:
        """The same by the least times, which other load on the machine disturbs less."""
        return self.other_least / self.ours_least


def summarize(ours: Iterable[float], other: Iterable[float]) -> Summary:
    """Medians and least times of all repetitions together.

    Args:
        ours: seconds a step.
        other: seconds a step.

    Example:
        >>> summarize([0.010, 0.012, 0.020], [0.024, 0.030, 0.024]).rate_median
        2.0
    """
    mine, theirs = [[1000 * second for second in side] for side in (ours, other)]
    return Summary(statistics.median(mine), min(mine), statistics.median(theirs), min(theirs))


def table_row(case: Case, summary: Summary) -> str:
    """The row of the Markdown table."""
    ours = f"{summary.ours_median:.2f} ({summary.ours_least:.2f})"
    other = f"{summary.other_median:.2f} ({summary.other_least:.2f})"
    rate = f"{summary.rate_median:.2f} ({summary.rate_least:.2f})"
    return f"| {case.title} | {ours} | {other} | {rate} | {case.goal:.2f} |"


def run_side(
    module: str, arguments: Sequence[str], deadline: float, settings: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run one side in a process of its own, with some environment variables more, and read its result.

    Raises:
        RuntimeError: where it failed; holds the end of what it said.
        subprocess.TimeoutExpired: where it did not end within ``deadline`` seconds.
    """
    command = [sys.executable, "-m", module, *arguments]
    environment = {**os.environ, **(settings or {})}
    done = subprocess.run(
        command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=deadline, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{module} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def run_case(
    case: Case, repetitions: int, deadline: float, settings: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Let the two sides of a row take turns; returns the times and facts of every process."""
    sides: dict[str, list[dict[str, Any]]] = {"ours": [], "other": []}
    for repetition in range(repetitions):
        # Who goes first changes as well, so that a machine that grows warm favors nobody.
        order = ("ours", "other") if repetition % 2 == 0 else ("other", "ours")
        for side in order:
            module = case.ours if side == "ours" else case.other
            print(f"{case.name} {repetition + 1}/{repetitions}: {module}", file=sys.stderr, flush=True)
            sides[side].append(run_side(module, case.arguments(), deadline, settings))
    return {"case": asdict(case), **sides}


def machine_facts() -> dict[str, Any]:
    """The machine that the figures belong to."""
    return {
        "cores": cores(),
        "cpu": cpu_model(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": commit(),
        "load_before": os.getloadavg()[0],
    }


def cpu_model() -> str:
    """The processor's name, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str:
    """The checkout's commit, marked where files differ from it; empty outside a checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The runner's command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measures cosdask against others.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"rows to measure: {', '.join(c.name for c in CASES)}")
    parser.add_argument("--repetitions", type=int, default=3, help="processes of each side (default: %(default)s)")
    parser.add_argument("--deadline", type=float, default=600, help="seconds a process may take (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="measure and print the table of speed against PyTorch")
    parser.add_argument(
        "--allocator", choices=(DEFAULT, TUNED), default=DEFAULT, help="both sides' allocator (default: %(default)s)"
    )
    chosen = parser.parse_args(arguments)
    if chosen.table and not chosen.rows:
        chosen.rows = [goal.case for goal in GOALS]
    unknown = set(chosen.rows) - {case.name for case in CASES}
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(case.name for case in CASES)}")
    if chosen.repetitions < 1:
        parser.error("--repetitions must be 1 or more")
    return chosen


def main() -> None:
    """Measure the chosen rows, print their table and keep their figures."""
    chosen = options()
    cases = [case for case in CASES if not chosen.rows or case.name in chosen.rows]
    now = datetime.datetime.now(datetime.UTC)
    record: dict[str, Any] = {"date": now.isoformat(timespec="seconds"), "machine": machine_facts(), "rows": []}
    settings = _TUNED if chosen.allocator == TUNED else {}
    record["environment"] = settings
    lines = [_HEADER]
    for case in cases:
        row = run_case(case, chosen.repetitions, chosen.deadline, settings)
        times = [[second for run in row[side] for second in run["seconds"]] for side in ("ours", "other")]
        summary = summarize(*times)
        row["summary"] = {**asdict(summary), "rate_median": summary.rate_median, "rate_least": summary.rate_least}
        record["rows"].append(row)
        lines.append(table_row(case, summary))
    print(speed_table([record]) if chosen.table else "\n".join(lines), flush=True)
    chosen.output.mkdir(parents=True, exist_ok=True)
    path = chosen.output / f"{now:%Y-%m-%d-%H%M%S}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten: {os.path.relpath(path)}", flush=True)


if __name__ == "__main__":
    main()
