"""A Dask worker that is told to end (SIGTERM, scaling down, ``--lifetime``) gives its rank time for a checkpoint."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Protocol

from distributed import Worker, WorkerPlugin
from distributed.utils import sync

#: seconds that a rank has: a nanny that was sent SIGTERM kills its worker after eight
LEAVING = 6.0
#: seconds between two looks at whether it has ended
_LOOK = 0.05
_NAME = "cosdask-rank"
#: seconds that the worker's event loop has to take the plugin
_DEADLINE = 10.0


class Leaver(Protocol):
    """A rank as it is seen here."""

    def command(self, word: str) -> None:
        """Send it a command."""

    def ended(self) -> bool:
        """Whether its process is gone."""


class Leave(WorkerPlugin):
    """On the worker's end: its rank, and with it the group, writes a checkpoint and ends, to form again elsewhere.

    Args:
        live: the worker's rank, where there is one.
    """

    def __init__(self, live: Callable[[], Leaver | None]) -> None:
        self._live = live

    def setup(self, worker: Worker) -> None:
        """From now on SIGTERM, too, closes the worker in order; its nanny, where that lives on, starts it again."""
        if worker.nanny is None or threading.current_thread() is not threading.main_thread():
            return  # it is not the only one in its process, or signals are none of its business
        loop, pid = asyncio.get_running_loop(), os.getpid()

        def close(number: int, frame: object) -> None:
            # a second signal ends the process at once; so does the first in a process that was forked from this one
            signal.signal(number, signal.SIG_DFL)
            if os.getpid() == pid:
                loop.call_soon_threadsafe(_close, worker)
            else:
                os.kill(os.getpid(), number)

        signal.signal(signal.SIGTERM, close)

    async def teardown(self, worker: Worker) -> None:
        """Wait for the rank's end, not for long."""
        live, until = self._live(), time.monotonic() + LEAVING
        if live is None:
            return
        live.command("preempt")
        while not live.ended() and time.monotonic() < until:
            await asyncio.sleep(_LOOK)


def _close(worker: Worker) -> None:
    worker.loop.add_callback(worker.close, nanny=False, reason="SIGTERM")


def leave_in_time(worker: Worker, live: Callable[[], Leaver | None]) -> None:
    """Have a worker's rank leave in time; from a task's thread, as often as wanted."""
    if _NAME not in worker.plugins:
        # a worker that is too busy for it now goes without: its rank's end is a death then, as any other
        with contextlib.suppress(TimeoutError):
            sync(worker.loop, worker.plugin_add, plugin=Leave(live), name=_NAME, callback_timeout=_DEADLINE)
