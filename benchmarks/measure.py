"""What one side of a comparison does: make steps, time them, print one line of JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

# Python packages whose versions belong to a result.
PACKAGES = ("cosdask", "jax", "jaxlib", "numpy", "dask", "distributed", "torch")


def time_steps(step: Callable[[int], Any], steps: int, chunk: int, warmup: int) -> list[float]:
    """Seconds a step, one figure for each chunk of steps.

    Args:
        step: makes the given number of steps and returns when they are done.
        steps: steps to time; a whole number of chunks.
        chunk: steps between two looks at the clock.
        warmup: steps made before, not timed; they hold the compilation.

    Example:
        >>> made = []
        >>> len(time_steps(made.append, steps=6, chunk=3, warmup=2)), made
        (2, [2, 3, 3])
    """
    if steps < chunk or steps % chunk:
        raise ValueError(f"steps (={steps}) must be a multiple of chunk (={chunk})")
    step(warmup)
    seconds = []
    for _ in range(steps // chunk):
        start = time.perf_counter()
        step(chunk)
        seconds.append((time.perf_counter() - start) / chunk)
    return seconds


def cores() -> int:
    """CPU cores this process may use; asked here, so that the other side need not load cosdask and JAX."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of the packages that this side loaded; cosdask may run from a checkout that is not installed."""
    installed = {name for name in PACKAGES if name in sys.modules and any(metadata.distributions(name=name))}
    return {name: metadata.version(name) for name in PACKAGES if name in installed}


def report(seconds: list[float], **facts: Any) -> None:
    """Print the side's result for the runner: the last line of standard output is JSON."""
    result: Mapping[str, Any] = {"seconds": seconds, "versions": versions(), **facts}
    print(json.dumps(result), flush=True)
