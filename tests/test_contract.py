"""The public contract: the names, signatures and return shapes that code outside of this repository calls.

What is built so far; each new part of the contract adds its names here. What the calls do is tested elsewhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

import cosdask
from cosdask.data import write_lmdb

REQUIRED = inspect.Parameter.empty
#: name -> parameters in order with their defaults; more may follow if they have defaults
SIGNATURES: dict[str, dict[str, Any]] = {
    "Net": {
        "path_or_url": REQUIRED,
        "phase": "TEST",
        "level": 0,
        "stages": (),
        "weights": None,
        "input_shapes": None,
        "seed": None,
    },
    "Net.from_text": {"text": REQUIRED, "phase": "TEST"},
    "Net.init": {"self": REQUIRED, "seed": None},
    "Net.to_blobs": {"self": REQUIRED, "params": REQUIRED},
    "Net.from_blobs": {"self": REQUIRED, "blobs": REQUIRED},
    "Net.apply": {"self": REQUIRED, "params": REQUIRED, "inputs": REQUIRED, "rng": None, "blobs": None},
    "Net.loss": {"self": REQUIRED, "params": REQUIRED, "inputs": REQUIRED, "rng": None},
    "Net.forward": {"self": REQUIRED, "inputs": REQUIRED, "blobs": None},
    "Net.load": {"self": REQUIRED, "path": REQUIRED},
    "Net.save": {"self": REQUIRED, "path": REQUIRED},
    "Net.map_partition": {
        "self": REQUIRED,
        "frame": REQUIRED,
        "blobs": REQUIRED,
        "column": "data",
        "transform": True,
    },
    "Net.meta": {"self": REQUIRED, "frame": REQUIRED, "blobs": REQUIRED},
    "Solver": {"path_or_url": REQUIRED, "weights": None, "snapshot": None, "ranks": 1},
    "Solver.step": {"self": REQUIRED, "n": REQUIRED},
    "Solver.solve": {"self": REQUIRED},
    "Solver.test": {"self": REQUIRED, "i": 0},
    "Solver.snapshot": {"self": REQUIRED},
    "Solver.restore": {"self": REQUIRED, "state": REQUIRED},
    "get_source": {"what": REQUIRED, "phase": "TRAIN"},
    "Source.partitions": {"self": REQUIRED},
    "Source.frame": {"self": REQUIRED, "partition": REQUIRED},
    "Source.to_dask": {"self": REQUIRED},
    "Source.batches": {"self": REQUIRED, "epochs": None},
    "Config.from_args": {"args": REQUIRED},
    "CaffeOnDask": {"client": None, "config": None},
    "CaffeOnDask.train": {"self": REQUIRED, "source": None},
    "CaffeOnDask.train_with_validation": {"self": REQUIRED, "train_source": None, "validation_source": None},
    "CaffeOnDask.test": {"self": REQUIRED, "source": None},
    "CaffeOnDask.features": {"self": REQUIRED, "source": None, "blobs": None},
    "LocalCluster": {"n_workers": None},
    "YarnCluster": {"n_workers": REQUIRED},
    "YarnCluster.from_application_id": {"app_id": REQUIRED},
    "NetSpec.to_proto": {"self": REQUIRED},
    "Callbacks": {"on_step": None, "on_validation": None, "on_snapshot": None, "on_restart": None},
    "EarlyStop": {"output": "loss", "patience": 3},
    "register_layer": {"name": REQUIRED},
    "register_source": {"name": REQUIRED},
    "proto.read_net": {"path_or_url": REQUIRED},
    "proto.read_solver": {"path_or_url": REQUIRED},
    "proto.to_text": {"message": REQUIRED},
}
MESSAGES = ["BlobProto", "Datum", "NetParameter", "SolverParameter", "SolverState", "LayerParameter", "BlobProtoVector"]

NET = """
name: "contract"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  data_param { source: "lmdb" backend: LMDB batch_size: 4 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  data_param { source: "lmdb" backend: LMDB batch_size: 5 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = (
    'net: "net.prototxt" base_lr: 0.001 lr_policy: "fixed" max_iter: 3 test_iter: 2 test_interval: 100 random_seed: 1 '
    'snapshot_prefix: "s"'
)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the working directory, with a net, a solver and 12 rows."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    write_lmdb("lmdb", rng.integers(0, 256, (12, 1, 4, 4), dtype=np.uint8), rng.integers(0, 3, 12))
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)
    return tmp_path


def find(name: str) -> Any:
    """A public name, such as ``Net.apply``."""
    found: Any = cosdask
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name: str) -> None:
    """Parameters have the contract's names, order and defaults; what comes beyond it must be optional."""
    function: Callable[..., Any] = find(name)
    actual = inspect.signature(function).parameters
    wanted = SIGNATURES[name]
    assert {key: actual[key].default for key in list(actual)[: len(wanted)]} == wanted
    for parameter in list(actual.values())[len(wanted) :]:
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        assert variadic or parameter.default is not REQUIRED, f"{name}: {parameter} is required"


def test_every_public_name_is_listed_and_loads() -> None:
    """``cosdask.__all__`` holds the contract's names, and each of them loads."""
    assert {name.partition(".")[0] for name in SIGNATURES} <= set(cosdask.__all__)
    for name in cosdask.__all__:
        assert getattr(cosdask, name) is not None
    assert set(cosdask.__all__) <= set(dir(cosdask))
    with pytest.raises(AttributeError, match='Did you mean "Net"'):
        _ = cosdask.Nett


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name: str) -> None:
    """caffe.proto's messages are under ``cosdask.proto.caffe_pb2``, in a pool of their own."""
    from google.protobuf import descriptor_pool

    message = getattr(cosdask.proto.caffe_pb2, name)
    assert message.DESCRIPTOR.full_name == f"caffe.{name}"
    assert message.DESCRIPTOR.file.pool is not descriptor_pool.Default()


def test_proto(files: Path) -> None:
    """Messages are read upgraded, and written as text that reads back."""
    net, solver = cosdask.proto.read_net("net.prototxt"), cosdask.proto.read_solver("solver.prototxt")
    assert (net.name, solver.max_iter) == ("contract", 3)
    (files / "again.prototxt").write_text(cosdask.proto.to_text(net))
    assert cosdask.proto.read_net("again.prototxt") == net


def test_net(files: Path) -> None:
    """Attributes and return shapes of Net."""
    net = cosdask.Net("net.prototxt", phase="TEST", seed=1)
    assert net.inputs == {"data": (5, 1, 4, 4), "label": (5,)}
    assert net.outputs == ["accuracy", "loss"]
    assert [layer.name for layer in net.layers] == ["data", "ip", "accuracy", "loss"]
    assert net.blob_shapes == {**net.inputs, "ip": (5, 3), "accuracy": (), "loss": ()}
    blobs = net.to_blobs(net.init(2))
    assert {name: [array.shape for array in arrays] for name, arrays in blobs.items()} == {"ip": [(3, 16), (3,)]}
    net.params = net.from_blobs(blobs)
    given = {"data": np.ones((2, 1, 4, 4), np.float32), "label": np.zeros(2, np.float32)}
    outputs, params = net.apply(net.params, given)
    assert set(outputs) == {"accuracy", "loss"}
    total, (outputs, params) = net.loss(params, given, rng=None)
    assert (np.shape(total), set(outputs)) == ((), {"accuracy", "loss"})
    (ip,) = net.forward({"data": given["data"]}, blobs=["ip"]).values()
    assert (type(ip), ip.dtype, ip.shape) == (np.ndarray, np.float32, (2, 3))
    net.save("n.caffemodel")
    net.load("n.caffemodel")
    text = cosdask.Net.from_text(NET, phase="TRAIN", weights="n.caffemodel", input_shapes=net.inputs)
    assert text.outputs == ["loss"]


def test_net_over_frames(files: Path) -> None:
    """map_partition and meta serve ddf.map_partitions."""
    net = cosdask.Net("net.prototxt", seed=1)
    frame = pd.DataFrame({"data": [np.ones(16, np.float32).tolist()] * 3})
    result = net.map_partition(frame, blobs=["ip"], column="data", transform=True)
    assert list(result.columns) == ["data", "ip"]
    assert np.asarray(result["ip"].iloc[0], np.float32).shape == (3,)
    assert list(net.meta(frame, ["ip"]).columns) == ["data", "ip"]
    assert len(net.meta(frame, ["ip"])) == 0


def test_solver(files: Path) -> None:
    """Attributes and return shapes of Solver."""
    solver = cosdask.Solver("solver.prototxt", weights=None, snapshot=None, ranks=1)
    assert solver.step(1) is None
    assert (solver.iter, type(solver.loss), type(solver.lr)) == (1, float, float)
    assert isinstance(solver.net, cosdask.Net)
    assert set(solver.test(i=0)) == {"accuracy", "loss"}
    model, state = solver.snapshot()
    assert (model, state) == ("s_iter_1.caffemodel", "s_iter_1.solverstate")
    assert solver.solve() is None
    assert solver.iter == 3
    assert solver.restore(state) is None
    assert solver.iter == 1
    solver.close()


@pytest.mark.parametrize("of", ["net", "solver", "config"])
def test_source(files: Path, of: str) -> None:
    """A source of a net, a solver or a configuration: partitions, frames, and finished batches."""
    what: Any = {
        "net": lambda: cosdask.Net("net.prototxt", phase="TRAIN"),
        "solver": lambda: cosdask.Solver("solver.prototxt"),
        "config": lambda: cosdask.Config(conf="solver.prototxt"),
    }[of]()
    source = cosdask.get_source(what, phase="TRAIN")
    assert isinstance(source, cosdask.Source)
    frames = [source.frame(partition) for partition in source.partitions()]
    assert all(isinstance(frame, pd.DataFrame) for frame in frames)
    assert sum(map(len, frames)) == 12
    ddf = source.to_dask()
    assert isinstance(ddf, dd.DataFrame)
    assert list(ddf.columns) == list(frames[0].columns)
    batches = source.batches(epochs=1)
    assert isinstance(batches, Iterator)
    assert [batch["data"].shape for batch in batches] == [(4, 1, 4, 4)] * 3


def test_config() -> None:
    """CaffeOnSpark's option names as keywords and as flags."""
    config = cosdask.Config(conf="s.prototxt", model="m.caffemodel", clusterSize=2)
    same = cosdask.Config.from_args(["-conf", "s.prototxt", "-model", "m.caffemodel", "-clusterSize", "2"])
    for name in ("conf", "model", "clusterSize"):
        assert getattr(config, name) == getattr(same, name)


def test_registered_layers_and_sources() -> None:
    """Decorators that give the class back."""
    from cosdask.nn.layer import REGISTRY

    @cosdask.register_layer("ContractTwice")
    class Twice(cosdask.Layer):
        layout = "any"

        def setup(self) -> None:
            self.top_shapes = [self.bottom_shapes[0]]

        def forward(self, weights: Any, bottoms: Any, rng: Any) -> Any:
            return [2 * bottoms[0]]

    assert REGISTRY["ContractTwice"] is Twice
    net = cosdask.Net.from_text(
        'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 } } }'
        'layer { name: "l" type: "ContractTwice" bottom: "x" top: "y" }'
    )
    assert net.forward({"x": np.ones(2)})["y"].tolist() == [2, 2]
    assert callable(cosdask.register_source("contract.Rows"))


def test_results_of_a_cluster() -> None:
    """What train returns has the contract's attributes."""
    for name in ("params", "history", "model_path"):
        assert name in {*cosdask.TrainResult.__dataclass_fields__, *vars(cosdask.TrainResult)}
