"""How long this process was busy: what tells a slow rank from those that wait for it."""

from __future__ import annotations

import contextlib
import os

_TASKS = "/proc/self/task"


def busy_seconds() -> float | None:
    """Seconds that all threads of this process have run, or waited for a processor, so far; None where nobody counts.

    Ranks step together, so the wall clock shows the same time on all of them; a slow rank differs in that it hardly
    ever waits. Linux counts both parts (``schedstat``: nanoseconds run, nanoseconds in the queue); threads that have
    ended are no more counted.
    """
    total = 0
    try:
        threads = os.listdir(_TASKS)
        for thread in threads:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended just now
                with open(f"{_TASKS}/{thread}/schedstat", encoding="ascii") as file:
                    ran, queued, _ = file.read().split()
                total += int(ran) + int(queued)
    except (OSError, ValueError):
        return None  # another system, or a kernel that does not count
    return total / 1e9
