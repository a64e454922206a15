"""Seconds until a GoogLeNet training step is compiled, with an empty cache and with a kept one.

``python -m benchmarks.compile_time``: each turn is a new process with the cache that the turn before it left.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.run import machine_facts
from benchmarks.speed_table import RESULTS

_ROOT = Path(__file__).resolve().parents[1]


def one_turn(net: str, batch: int) -> dict[str, float]:
    """Seconds of building the solver and of its first and third step, in this process."""
    import cosdask
    from benchmarks.inputs import write_inputs

    with tempfile.TemporaryDirectory() as folder:
        path = write_inputs(net, Path(folder), batch, 3)
        times = [time.perf_counter()]
        with cosdask.Solver(str(path)) as solver:
            times.append(time.perf_counter())
            for _ in range(3):
                solver.step(1)
                float(solver.loss)
                times.append(time.perf_counter())
    return {"build": times[1] - times[0], "first_step": times[2] - times[1], "third_step": times[4] - times[3]}


def compile_seconds(turn: dict[str, float]) -> float:
    """What the first step took longer than a later one.

    Example:
        >>> compile_seconds({"build": 1.0, "first_step": 9.0, "third_step": 0.5})
        8.5
    """
    return turn["first_step"] - turn["third_step"]


def main() -> None:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(description="Seconds until a training step is compiled.")
    parser.add_argument("--net", default="googlenet")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--later", type=int, default=2, help="turns with the kept cache (default: %(default)s)")
    parser.add_argument("--turn", action="store_true", help="make one turn in this process and print it")
    given = parser.parse_args()
    if given.turn:
        print(json.dumps(one_turn(given.net, given.batch)))
        return
    turns: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "benchmarks.compile_time", "--turn", "--net", given.net]
        command += ["--batch", str(given.batch)]
        environment = {**os.environ, "COSDASK_CACHE_DIR": cache}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        for _ in range(1 + given.later):
            done = subprocess.run(
                command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=600, check=True
            )
            turns.append(json.loads(done.stdout.strip().splitlines()[-1]))
    first, *later = map(compile_seconds, turns)
    result: dict[str, Any] = {"net": given.net, "batch": given.batch, "turns": turns}
    result |= {"first_s": first, "later_s": min(later, default=float("nan"))}
    now = datetime.datetime.now(datetime.UTC)
    record = {"date": now.isoformat(timespec="seconds"), "machine": machine_facts(), "compile": result}
    path = RESULTS / f"{now:%Y-%m-%d-%H%M%S}-compile.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"first run {result['first_s']:.1f} s, later run {result['later_s']:.1f} s; written: {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
