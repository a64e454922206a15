"""Noticing the one rank that all others wait for."""

from __future__ import annotations

from cosdask.events import Event, Progress, RunStarted

#: a rank that is busy this many times as long as the middle one of the others is slow
FACTOR = 1.4


class SlowRanks:
    """Compares how long ranks are busy in an iteration.

    Args:
        look: seconds between two looks.
        times: looks in a row at which a rank has to be slow.
        quiet: seconds without another warning of a rank after one.

    Example:
        >>> slow = SlowRanks(look=10, times=1)
        >>> for rank, busy in enumerate([0.02, 0.05, 0.02]):
        ...     text = slow.notice(
        ...         Progress(rank=rank, iteration=9, loss=1.0, lr=0.1, busy_seconds=busy, time=5.0 * rank)
        ...     )
        >>> print(text)
        rank 1 is busy for 0.05 s in an iteration, the others for 0.02 s: they wait for it. Look at what else runs on
        its host, and at its clock rate.
    """

    def __init__(self, look: float = 10.0, times: int = 3, quiet: float = 600.0) -> None:
        self._look, self._times, self._quiet = look, times, quiet
        self._busy: dict[int, list[float]] = {}
        self._seen: dict[int, int] = {}
        self._told: dict[int, float] = {}
        self._looked: float | None = None
        self._hosts: dict[int, str] = {}

    def notice(self, event: Event) -> str:
        """Take an event; what to say, or nothing."""
        if isinstance(event, RunStarted):
            self._busy, self._seen, self._looked = {}, {}, None
            self._hosts = {rank["rank"]: f" at {rank['host']}" for rank in event.ranks}
        if not isinstance(event, Progress) or event.busy_seconds is None:
            return ""
        self._busy.setdefault(event.rank, []).append(event.busy_seconds)
        if self._looked is None:
            self._looked = event.time
        if event.time - self._looked < self._look:
            return ""
        self._looked = event.time
        means = {rank: sum(found) / len(found) for rank, found in self._busy.items()}
        self._busy = {}
        return self._compare(means, event.time)

    def _compare(self, means: dict[int, float], now: float) -> str:
        if len(means) < 2:
            return ""
        slowest = max(means, key=lambda rank: means[rank])
        others = sorted(value for rank, value in means.items() if rank != slowest)
        middle = others[len(others) // 2]
        if means[slowest] < FACTOR * middle:
            self._seen = {}
            return ""
        self._seen = {slowest: self._seen.get(slowest, 0) + 1}
        if self._seen[slowest] < self._times or now - self._told.get(slowest, float("-inf")) < self._quiet:
            return ""
        self._told[slowest] = now
        return (
            f"rank {slowest}{self._hosts.get(slowest, '')} is busy for {means[slowest]:.3g} s in an iteration, the "
            f"others for {middle:.3g} s: they wait for it. Look at what else runs on its host, and at its clock rate."
        )
