"""What dask-yarn 0.9 and skein 0.8 need under today's Python and distributed, in one place.

dask-yarn's last release imports two names that moved from ``distributed.utils`` to ``dask.utils``, and passes its
scheduler an event loop that it no longer takes; skein's compares versions by a part of Python's library that is gone
in 3.12. Each repair looks first whether it is needed, so this module does
nothing under a dask-yarn that works by itself; the repaired methods of its cluster class are in
:class:`cosdask.cluster.yarn.YarnCluster`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

from cosdask.errors import ConfigError

_MOVED = ("format_bytes", "parse_timedelta")


@functools.cache
def dask_yarn_core() -> Any:
    """The module ``dask_yarn.core``, in working order.

    Raises:
        ConfigError: dask-yarn or skein is not installed.
    """
    skein()
    core = _import("dask_yarn.core")
    import distributed

    if "loop" not in inspect.signature(distributed.Scheduler.__init__).parameters:
        # its scheduler in the client's process runs on the loop that is current
        core.Scheduler = lambda loop=None, **keywords: distributed.Scheduler(**keywords)
    return core


@functools.cache
def skein() -> Any:
    """The module ``skein``, in working order.

    Raises:
        ConfigError: it is not installed.
    """
    with _version_of_distutils():
        module = _import("skein")
    if hasattr(module.core, "grpc_fork_support_disabled"):
        # it does nothing under gRPC 1.18 (2019) and later, but asks for the version each time
        module.core.grpc_fork_support_disabled = contextlib.nullcontext
    return module


@contextlib.contextmanager
def _version_of_distutils() -> Iterator[None]:
    """``distutils.version`` for the time of an import: skein takes the name of a class from there."""
    names = ("distutils", "distutils.version")
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    version = types.ModuleType("distutils.version")
    version.LooseVersion = str  # type: ignore[attr-defined]
    sys.modules.update({"distutils": types.ModuleType("distutils"), "distutils.version": version})
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(before)


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
