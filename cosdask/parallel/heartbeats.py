"""Whether workers live: a worker that hangs stays connected, only its heartbeats to the scheduler end."""

from __future__ import annotations

import time


class Heartbeats:
    """How long each worker has been silent, by this machine's clock; the scheduler's may be another."""

    def __init__(self) -> None:
        #: each worker's last heartbeat as the scheduler has it, and when it was first seen here
        self._heard: dict[str, tuple[float, float]] = {}

    def silence(self, address: str, beat: float) -> float:
        """Seconds since a worker's heartbeat last changed, as far as was looked; 0 at the first look.

        Args:
            address: of the worker.
            beat: its ``last_seen`` in the scheduler's record.

        Example:
            >>> heartbeats = Heartbeats()
            >>> heartbeats.silence("tcp://worker:1", 17.25) < 1
            True
        """
        now = time.monotonic()
        known = self._heard.get(address)
        if known is None or known[0] != beat:
            known = self._heard[address] = (beat, now)
        return now - known[1]
