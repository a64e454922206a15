"""pycaffe's names on cosdask: ``import cosdask.pycaffe as caffe``.

Scripts and notebooks written for Caffe's Python interface run with this one import changed. Modules of other people
that say ``import caffe`` find it too after :func:`install_as_caffe`.

Example:
    >>> import cosdask.pycaffe as caffe
    >>> from cosdask.pycaffe import layers as L
    >>> n = caffe.NetSpec()
    >>> n.data = L.Input(shape=dict(dim=[1, 2]))
    >>> n.ip = L.InnerProduct(n.data, num_output=3)
    >>> net = caffe.Net(n.to_proto(), caffe.TEST)
    >>> net.params["ip"][0].data[...] = 1
    >>> net.forward(data=[[1, 2]])["ip"]
    array([[3., 3., 3.]], dtype=float32)
"""

from cosdask.nn.layer import REGISTRY as _REGISTRY
from cosdask.nn.user_code import allow_python_layers
from cosdask.nn.user_layers import Layer
from cosdask.pycaffe import classifier, coord_map, detector, draw, io, net_spec, proto
from cosdask.pycaffe.alias import install_as_caffe, uninstall_as_caffe
from cosdask.pycaffe.blob import Blob
from cosdask.pycaffe.classifier import Classifier
from cosdask.pycaffe.detector import Detector
from cosdask.pycaffe.net import TEST, TRAIN, Net
from cosdask.pycaffe.net_spec import NetSpec, layers, params, to_proto
from cosdask.pycaffe.solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    get_solver,
)
from cosdask.pycaffe.state import (
    has_nccl,
    init_log,
    log,
    set_device,
    set_logging_disabled,
    set_mode_cpu,
    set_mode_gpu,
    set_multiprocess,
    set_random_seed,
    set_solver_count,
    set_solver_rank,
    solver_count,
    solver_rank,
)

#: the version of Caffe whose interface this is; cosdask's own is ``cosdask.__version__``
__version__ = "1.0.0"


def layer_type_list() -> list[str]:
    """The layer types that nets may name, the user's own included."""
    return sorted(_REGISTRY)


__all__ = [
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "Classifier",
    "Detector",
    "Layer",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "__version__",
    "allow_python_layers",
    "classifier",
    "coord_map",
    "detector",
    "draw",
    "get_solver",
    "has_nccl",
    "init_log",
    "install_as_caffe",
    "io",
    "layer_type_list",
    "layers",
    "log",
    "net_spec",
    "params",
    "proto",
    "set_device",
    "set_logging_disabled",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "to_proto",
    "uninstall_as_caffe",
]
