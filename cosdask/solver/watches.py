"""Watching where a training's time goes: waiting for rows, or exchanging gradients, is told where the user looks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ShareWatch:
    """Notices that something takes too large a part of the time.

    Args:
        look: seconds over which it is looked at.
        quiet: seconds without another warning after one.
        share: part of the time, 0 to 1, from which on it is worth a warning.
    """

    look: float = 10.0
    quiet: float = 300.0
    share: float = 0.1
    _last: tuple[float, ...] | None = None
    _warned: float = float("-inf")

    def over(self, now: float, *spent: float) -> list[float]:
        """Seconds looked at, and what was spent in them, where the first of that is too much; else nothing.

        Args:
            now: the time.
            spent: seconds spent so far.
        """
        if self._last is None:
            self._last = now, *spent
        seconds, *taken = (new - old for new, old in zip((now, *spent), self._last, strict=True))
        if seconds < self.look:
            return []
        self._last = now, *spent
        if taken[0] < self.share * seconds or now - self._warned < self.quiet:
            return []
        self._warned = now
        return [seconds, *taken]


class InputWatch(ShareWatch):
    """Notices that training waits for its rows.

    Example:
        >>> watch = InputWatch(look=10, quiet=60)
        >>> watch.notice(0.0, waited=0.0, read=0.0, decoded=0.0)
        ''
        >>> print(watch.notice(10.0, waited=5.0, read=1.0, decoded=9.0))
        waiting for rows took 50% of the last 10 s: reading them took 1.0 s, decoding them 9.0 s in all threads. More
        decoding threads (--threads) would help.
    """

    def notice(self, now: float, waited: float, read: float, decoded: float) -> str:
        """What to say, or nothing; takes the time and the seconds spent so far."""
        found = self.over(now, waited, read, decoded)
        if not found:
            return ""
        seconds, waiting, reading, decoding = found
        return (
            f"waiting for rows took {waiting / seconds:.0%} of the last {seconds:.0f} s: reading them took "
            f"{reading:.1f} s, decoding them {decoding:.1f} s in all threads. "
            + ("More decoding threads (--threads) would help." if decoding > reading else "Nearer storage would help.")
        )


class ExchangeWatch(ShareWatch):
    """Notices that training spends its time on exchanging gradients.

    Example:
        >>> watch = ExchangeWatch(look=10, share=0.3)
        >>> watch.notice(0.0, exchanged=0.0)
        ''
        >>> print(watch.notice(10.0, exchanged=4.0))
        exchanging gradients took 40% of the last 10 s. A larger batch_size or iter_size makes exchanges fewer,
        --wire bfloat16 halves them, and --interface picks a faster network.
    """

    def notice(self, now: float, exchanged: float) -> str:
        """What to say, or nothing; takes the time and the seconds spent so far."""
        found = self.over(now, exchanged)
        if not found:
            return ""
        seconds, spent = found
        return (
            f"exchanging gradients took {spent / seconds:.0%} of the last {seconds:.0f} s. A larger batch_size or "
            "iter_size makes exchanges fewer, --wire bfloat16 halves them, and --interface picks a faster network."
        )
