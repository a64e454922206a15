"""Where a training step's time goes: ``python -m benchmarks.profile NET BATCH`` prints the compiled step's operations.

Times are of the operations as XLA runs them, with the layers that they come from; the sum of a step's operations is
less than the step where the host waits, and more where operations run side by side.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import defaultdict
from pathlib import Path

import jax

import cosdask
from benchmarks.inputs import KINDS, write_inputs
from cosdask import device


def operation_times(folder: Path) -> dict[str, float]:
    """Seconds of each operation in a trace, all calls together."""
    found: dict[str, float] = defaultdict(float)
    for path in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    if dict(event.stats).get("hlo_op"):
                        found[event.name] += event.duration_ns * 1e-9
    return found


def origins(text: str) -> dict[str, str]:
    """The layer that each operation of a compiled program comes from, and the shape that it makes."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:ROOT )?%?([\w.-]+) = (\S+)", line)
        if match:
            name = re.search(r'op_name="([^"]*)"', line)
            found[match[1]] = f"{match[2][:60]}  {name[1][-90:] if name else ''}"
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=sorted(KINDS))
    parser.add_argument("batch", type=int)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--most", type=int, default=40, help="operations to print (default: %(default)s)")
    parser.add_argument("--hlo", type=Path, help="where to write the compiled program's text")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_inputs(given.net, Path(folder), given.batch, 1000)
        with cosdask.Solver(str(path)) as solver:
            solver.step(2)
            engine = solver.engine
            raw = next(engine.feeds[0])
            rate, correction = engine.step_functions.scalars(0)
            lowered = engine._fused.lower(engine.state, raw, 0, 0, rate, correction, False)
            text = lowered.compile(compiler_options=device.compiler_options()).as_text()
            with jax.profiler.trace(str(Path(folder) / "trace")):
                solver.step(given.steps)
                float(solver.loss)
            times = operation_times(Path(folder) / "trace")
    if given.hlo:
        given.hlo.write_text(text)
    known = origins(text)
    print(f"{1000 * sum(times.values()) / given.steps:.1f} ms a step in {len(times)} operations")
    for name, seconds in sorted(times.items(), key=lambda item: -item[1])[: given.most]:
        print(f"{1000 * seconds / given.steps:8.2f} ms  {name:34} {known.get(name, '')}")


if __name__ == "__main__":
    main()
