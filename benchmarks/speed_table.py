"""The table of speed against PyTorch, from kept results: ``python -m benchmarks.speed_table [FILE...]``.

A cell is cosdask's time by PyTorch's, so that less is better: by the medians, and in brackets by the least times. Where
several files hold a row, the last one counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
#: how the allocator of a result is named
DEFAULT, TUNED = "default", "tuned"
_HEADER = (
    "| work | goal | first acceptable | measured: median (least) | cosdask, ms | PyTorch, ms | tuned allocator |\n"
    "|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Goal:
    """A row of the table: the case that measures it, and what its ratio is to be."""

    case: str
    title: str
    goal: float
    acceptable: float


STEPS = (
    Goal("caffenet", "CaffeNet batch 16, training step", 0.75, 0.85),
    Goal("googlenet", "GoogLeNet batch 8, training step", 0.65, 0.8),
    Goal("lenet", "LeNet batch 64, training step", 0.8, 1.0),
    Goal("cifar10", "CIFAR-10 quick batch 100, training step", 0.9, 1.0),
    Goal("resnet50", "ResNet-50 batch 4, training step", 0.9, 1.0),
    Goal("lrcn", "LRCN batch 16, training step", 0.8, 1.0),
)
GOALS = (
    *STEPS,
    *(Goal(f"{step.case}-forward", step.title.replace("training step", "forward only"), 0.8, 1.0) for step in STEPS),
)
#: seconds of a GoogLeNet training step's first run and of later ones
COMPILE_GOALS = "15 s / 3 s", "30 s / 5 s"


def ratio_cells(summary: Mapping[str, float]) -> tuple[str, str, str]:
    """The measured ratio and both sides' milliseconds.

    Example:
        >>> ratio_cells({"ours_median": 8, "ours_least": 6, "other_median": 10, "other_least": 10})
        ('0.80 (0.60)', '8.0 (6.0)', '10.0 (10.0)')
    """
    ours, least = summary["ours_median"], summary["ours_least"]
    other, other_least = summary["other_median"], summary["other_least"]
    ratio = f"{ours / other:.2f} ({least / other_least:.2f})"
    return ratio, f"{ours:.1f} ({least:.1f})", f"{other:.1f} ({other_least:.1f})"


def speed_table(records: Iterable[Mapping[str, Any]]) -> str:
    """The Markdown table; rows that no record holds say so.

    Args:
        records: results as :mod:`benchmarks.run` keeps them, and of :mod:`benchmarks.compile_time`, oldest first.
    """
    found: dict[tuple[str, str], Mapping[str, float]] = {}
    compiled: Mapping[str, float] = {}
    for record in records:
        compiled = record.get("compile", compiled)
        allocator = TUNED if record.get("environment") else DEFAULT
        for row in record.get("rows", []):
            found[row["case"]["name"], allocator] = row["summary"]
    lines = [_HEADER]
    for goal in GOALS:
        cells = ("not measured", "", "")
        if (goal.case, DEFAULT) in found:
            cells = ratio_cells(found[goal.case, DEFAULT])
        tuned = ratio_cells(found[goal.case, TUNED])[0] if (goal.case, TUNED) in found else ""
        lines.append(_row(goal.title, f"{goal.goal:g}", f"{goal.acceptable:g}", *cells, tuned))
    seconds = f"{compiled['first_s']:.1f} s / {compiled['later_s']:.1f} s" if compiled else "not measured"
    lines.append(_row("compile, first run / later run: GoogLeNet training step", *COMPILE_GOALS, seconds, "", "", ""))
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The table of speed against PyTorch, from kept results.")
    parser.add_argument("files", nargs="*", type=Path, help="results, oldest first (default: all that are kept)")
    files = parser.parse_args().files or sorted(RESULTS.glob("*.json"))
    print(speed_table(json.loads(path.read_text()) for path in files))


if __name__ == "__main__":
    main()
