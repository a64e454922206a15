"""What dask-yarn 0.9 needs under today's distributed, in one place.

dask-yarn's last release imports two names that moved from ``distributed.utils`` to ``dask.utils``, and passes its
scheduler an event loop that it no longer takes. Each repair looks first whether it is needed, so this module does
nothing under a dask-yarn that works by itself; the repaired methods of its cluster class are in
:class:`cosdask.cluster.yarn.YarnCluster`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Any

from cosdask.errors import ConfigError

_MOVED = ("format_bytes", "parse_timedelta")


@functools.cache
def dask_yarn_core() -> Any:
    """The module ``dask_yarn.core``, in working order.

    Raises:
        ConfigError: dask-yarn or skein is not installed.
    """
    core = _import("dask_yarn.core")
    import distributed

    if "loop" not in inspect.signature(distributed.Scheduler.__init__).parameters:
        # its scheduler in the client's process runs on the loop that is current
        core.Scheduler = lambda loop=None, **keywords: distributed.Scheduler(**keywords)
    return core


def skein() -> Any:
    """The module ``skein``.

    Raises:
        ConfigError: it is not installed.
    """
    return _import("skein")


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"YARN needs a package that is not installed ({error.name}): pip install 'cosdask[yarn]'"
        ) from error
    except ImportError:
        import dask.utils
        import distributed.utils

        lacking = [name for name in _MOVED if not hasattr(distributed.utils, name)]
        if not lacking:
            raise
        for moved in lacking:
            setattr(distributed.utils, moved, getattr(dask.utils, moved))
        try:
            return importlib.import_module(name)
        finally:
            for moved in lacking:
                delattr(distributed.utils, moved)
