"""Where workers come from.

Names are loaded when they are first used: a container of YARN's that runs Dask's scheduler needs none of JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosdask.cluster.local import LocalCluster
    from cosdask.cluster.yarn import YarnCluster

_PLACES = {"LocalCluster": "cosdask.cluster.local", "YarnCluster": "cosdask.cluster.yarn"}

__all__ = ["LocalCluster", "YarnCluster"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'cosdask.cluster' has no attribute '{name}'")
