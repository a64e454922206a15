"""Letting other people's modules that say ``import caffe`` find cosdask's look-alike."""

from __future__ import annotations

import importlib
import importlib.util
import sys

from cosdask.errors import ConfigError

_SUBMODULES = ("io", "classifier", "detector", "net_spec", "coord_map", "draw", "proto", "proto.caffe_pb2")


def install_as_caffe(replace: bool = False) -> None:
    """From now on ``import caffe`` in this process gives ``cosdask.pycaffe``, its submodules included.

    It is not done unasked, as a process may need a real Caffe; only modules of Python layers find ``cosdask.pycaffe``
    where no ``caffe`` was imported before.

    Args:
        replace: also where a real Caffe is installed or loaded.

    Raises:
        ConfigError: where there is a real Caffe and ``replace`` is False.

    Example:
        >>> install_as_caffe()
        >>> import caffe
        >>> caffe.Net is importlib.import_module("cosdask.pycaffe").Net
        True
        >>> uninstall_as_caffe()
    """
    ours = importlib.import_module("cosdask.pycaffe")
    loaded = sys.modules.get("caffe")
    if loaded is ours:
        return
    # the little that Python layers were given is ours too
    if getattr(loaded, "__cosdask__", False):
        loaded = None
        del sys.modules["caffe"]
    if not replace and (loaded is not None or importlib.util.find_spec("caffe") is not None):
        raise ConfigError(
            "install_as_caffe: there is another module named caffe here; uninstall it, or say replace=True to hide it."
        )
    uninstall_as_caffe()
    sys.modules["caffe"] = ours
    for name in _SUBMODULES:
        sys.modules[f"caffe.{name}"] = importlib.import_module(f"cosdask.pycaffe.{name}")


def uninstall_as_caffe() -> None:
    """Undo :func:`install_as_caffe`."""
    for name in [name for name in sys.modules if name == "caffe" or name.startswith("caffe.")]:
        del sys.modules[name]


__all__ = ["install_as_caffe", "uninstall_as_caffe"]
