"""Loaded by each local worker when it starts (Dask's "preload").

Ctrl-C in a terminal goes to every process of the terminal's group. It is meant for the client, which asks the ranks
to write a snapshot; workers that ended by themselves would take the ranks down before that.
"""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Called by Dask in the worker's main thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
