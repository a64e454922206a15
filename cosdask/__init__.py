"""cosdask: CaffeOnSpark's job in Python. Caffe networks compiled by JAX, on the rows and workers of a Dask cluster.

Names are loaded when they are first used, so that ``import cosdask`` starts quickly and a process may still set
JAX's environment after it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cosdask.errors import did_you_mean

if TYPE_CHECKING:
    from cosdask import errors, proto
    from cosdask.cluster import LocalCluster
    from cosdask.cluster.yarn import YarnCluster
    from cosdask.config import Config
    from cosdask.data import Source, get_source, register_source
    from cosdask.estimators import NetClassifier, NetFeatures
    from cosdask.nn import Layer, Net, allow_python_layers, register_layer
    from cosdask.parallel import CaffeOnDask, TrainResult
    from cosdask.proto.net_spec import NetSpec, layers, params
    from cosdask.solver import Solver
    from cosdask.view import (
        Callbacks,
        EarlyStop,
        StopTraining,
        TensorBoard,
        show_captions,
        show_df,
        show_network,
    )

__version__ = "0.1.0"

_PLACES = {
    "CaffeOnDask": "cosdask.parallel",
    "Callbacks": "cosdask.view",
    "Config": "cosdask.config",
    "EarlyStop": "cosdask.view",
    "Layer": "cosdask.nn",
    "LocalCluster": "cosdask.cluster",
    "Net": "cosdask.nn",
    "NetClassifier": "cosdask.estimators",
    "NetFeatures": "cosdask.estimators",
    "NetSpec": "cosdask.proto.net_spec",
    "Solver": "cosdask.solver",
    "Source": "cosdask.data",
    "StopTraining": "cosdask.view",
    "TensorBoard": "cosdask.view",
    "TrainResult": "cosdask.parallel",
    "YarnCluster": "cosdask.cluster.yarn",
    "allow_python_layers": "cosdask.nn",
    "get_source": "cosdask.data",
    "layers": "cosdask.proto.net_spec",
    "params": "cosdask.proto.net_spec",
    "register_layer": "cosdask.nn",
    "register_source": "cosdask.data",
    "show_captions": "cosdask.view",
    "show_df": "cosdask.view",
    "show_network": "cosdask.view",
}
_MODULES = ("errors", "proto")

__all__ = [
    "CaffeOnDask",
    "Callbacks",
    "Config",
    "EarlyStop",
    "Layer",
    "LocalCluster",
    "Net",
    "NetClassifier",
    "NetFeatures",
    "NetSpec",
    "Solver",
    "Source",
    "StopTraining",
    "TensorBoard",
    "TrainResult",
    "YarnCluster",
    "allow_python_layers",
    "errors",
    "get_source",
    "layers",
    "params",
    "proto",
    "register_layer",
    "register_source",
    "show_captions",
    "show_df",
    "show_network",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"cosdask.{name}")
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'cosdask' has no attribute '{name}'.{did_you_mean(name, __all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
