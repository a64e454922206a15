"""What happens on Dask workers: the group of ranks that trains, and evaluation and features in ordinary tasks.

Names are loaded when they are first used: a rank is a module of this package too, and starts the sooner for what it
does not load.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cosdask.parallel.driver import CaffeOnDask
    from cosdask.parallel.results import TrainResult

__all__ = ["CaffeOnDask", "TrainResult"]

_PLACES = {"CaffeOnDask": "cosdask.parallel.driver", "TrainResult": "cosdask.parallel.results"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'cosdask.parallel' has no attribute '{name}'")
