"""A rank's events on their way to the client: at most two messages a second, however many events there are.

The scheduler keeps the last messages of every topic, and each goes to the client by itself; a small net that shows
every iteration makes hundreds of events a second. Progress therefore waits for up to half a second and travels
together, long batches packed; what is rare (snapshots, validations, warnings) goes at once, after what waited.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from cosdask.parallel.packed import pack, unpack

#: seconds between two messages that hold nothing but progress
PAUSE = 0.5
#: kinds of events that may wait
_MAY_WAIT = ("progress", "debug_info")
#: characters from which on a message is packed
_PACKED_FROM = 1 << 13


class Post:
    """Sends events in few messages.

    Args:
        send: takes a message.
        pause: seconds between two messages that hold nothing but progress.

    Example:
        >>> sent = []
        >>> post = Post(sent.append, pause=60.0)
        >>> for iteration in range(100):
        ...     post.add({"kind": "progress", "iteration": iteration})
        >>> post.flush()
        >>> len(sent), len([event for message in sent for event in opened(message)])
        (2, 100)
    """

    def __init__(self, send: Callable[[Any], None], pause: float = PAUSE) -> None:
        self._send, self._pause = send, pause
        self._waiting: list[dict[str, Any]] = []
        self._sent = float("-inf")

    def add(self, event: dict[str, Any]) -> None:
        """Take an event."""
        self._waiting.append(event)
        if event["kind"] in _MAY_WAIT:
            self.tick()
        else:
            self.flush()

    def tick(self) -> None:
        """Send what waits where it is time."""
        if self._waiting and time.monotonic() - self._sent >= self._pause:
            self._sent = time.monotonic()
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._send(_packed(waiting))


def _packed(events: list[dict[str, Any]]) -> Any:
    text = json.dumps(events)
    if len(text) < _PACKED_FROM:
        return events
    return pack(text)


def opened(message: Any) -> list[dict[str, Any]]:
    """The events of a message."""
    if isinstance(message, str):
        message = json.loads(unpack(message))
    found: list[dict[str, Any]] = message
    return found
