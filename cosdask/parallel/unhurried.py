"""Dask looks at itself less often while a rank works beside it.

A worker measures its event loop 50 times a second and samples its threads 100 times, which takes some 6 % of a core
from ranks that have one each. Meanwhile there is nothing to see: the worker's thread waits for the rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Dask's names of what it does so often: measuring the event loop, sampling threads
_OFTEN = ("tick", "profile")
#: milliseconds from one time to the next meanwhile
_PACE = 500.0


@contextmanager
def unhurried(server: Any) -> Iterator[None]:
    """While this lasts, a Dask worker's own measurements come twice a second.

    Args:
        server: a Dask worker, scheduler or nanny; what it has switched off stays off.

    Example:
        >>> from types import SimpleNamespace as Server
        >>> tick = Server(callback_time=20)
        >>> with unhurried(Server(periodic_callbacks={"tick": tick})):
        ...     tick.callback_time
        500.0
        >>> tick.callback_time
        20
    """
    often = [callback for name in _OFTEN if (callback := server.periodic_callbacks.get(name)) is not None]
    before = [callback.callback_time for callback in often]
    for callback in often:
        callback.callback_time = max(_PACE, callback.callback_time)
    try:
        yield
    finally:
        for callback, pace in zip(often, before, strict=True):
            callback.callback_time = pace
