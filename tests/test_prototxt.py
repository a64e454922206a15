"""The ready networks and solvers in prototxt/: they parse, and they are the ones that users know."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import cosdask.proto as proto

_FOLDER = Path(__file__).resolve().parents[1] / "prototxt"
_FILES = sorted(path.name for path in _FOLDER.glob("*.prototxt"))
_SOLVERS = [name for name in _FILES if name.endswith("_solver.prototxt")]

# Ours, and the real file that it has to equal.
_NETS = {
    "bvlc_reference_caffenet_deploy.prototxt": "bvlc/bvlc_reference_caffenet_deploy.prototxt",
    "bvlc_reference_net.prototxt": "caffeonspark/bvlc_reference_net.prototxt",
    "cifar10_quick.prototxt": "bvlc/cifar10_cifar10_quick.prototxt",
    "cifar10_quick_train_test.prototxt": "caffeonspark/cifar10_quick_train_test.prototxt",
    "lenet.prototxt": "bvlc/mnist_lenet.prototxt",
    "lenet_dataframe_train_test.prototxt": "caffeonspark/lenet_dataframe_train_test.prototxt",
    "lenet_memory_train_test.prototxt": "caffeonspark/lenet_memory_train_test.prototxt",
    "lenet_train_test.prototxt": "bvlc/mnist_lenet_train_test.prototxt",
}
_SOLVER_PAIRS = {
    "bvlc_reference_solver.prototxt": "caffeonspark/bvlc_reference_solver.prototxt",
    "cifar10_quick_solver.prototxt": "caffeonspark/cifar10_quick_solver.prototxt",
    "lenet_dataframe_solver.prototxt": "caffeonspark/lenet_dataframe_solver.prototxt",
    "lenet_memory_solver.prototxt": "caffeonspark/lenet_memory_solver.prototxt",
    "lenet_solver.prototxt": "bvlc/mnist_lenet_solver.prototxt",
}


def _read(path: Path) -> Any:
    return proto.read_solver(str(path)) if path.name.endswith("solver.prototxt") else proto.read_net(str(path))


def _without_places(net: Any) -> str:
    """The net's text with the places of its data taken out: those are the user's own."""
    copy = type(net)()
    copy.CopyFrom(net)
    for layer in copy.layer:
        layer.memory_data_param.ClearField("source")
        layer.data_param.ClearField("source")
        # An empty message that was only touched is not a difference.
        for name in ("memory_data_param", "data_param"):
            if not getattr(layer, name).ListFields():
                layer.ClearField(name)
    return proto.to_text(copy)


def _without_folders(solver: Any) -> str:
    """The solver's text with the file names of its net and snapshots, but not their folders."""
    copy = type(solver)()
    copy.CopyFrom(solver)
    copy.snapshot_prefix = PurePosixPath(copy.snapshot_prefix).name
    copy.net = "net"
    return proto.to_text(copy)


@pytest.mark.parametrize("name", _FILES)
def test_shipped_file_is_read(name: str) -> None:
    """Every ready file is read without an error and says something."""
    assert _read(_FOLDER / name).ListFields()


@pytest.mark.parametrize("name", _SOLVERS)
def test_solver_names_a_net_beside_it(name: str) -> None:
    """A ready solver can be started as it is: the net that it names lies in the same folder."""
    assert (_FOLDER / _read(_FOLDER / name).net).is_file()


def test_every_file_is_compared() -> None:
    """A new ready file is added to the comparison with the real ones."""
    assert set(_FILES) == set(_NETS) | set(_SOLVER_PAIRS)


@pytest.mark.parametrize(("ours", "real"), _NETS.items())
def test_net_equals_the_real_one(ours: str, real: str, reference_prototxt: Path) -> None:
    """Names of layers and blobs, shapes, fillers, multipliers and transforms equal the real file's."""
    assert _without_places(_read(_FOLDER / ours)) == _without_places(_read(reference_prototxt / real))


@pytest.mark.parametrize(("ours", "real"), _SOLVER_PAIRS.items())
def test_solver_equals_the_real_one(ours: str, real: str, reference_prototxt: Path) -> None:
    """Rates, policies, intervals and the snapshots' format and name equal the real file's."""
    assert _without_folders(_read(_FOLDER / ours)) == _without_folders(_read(reference_prototxt / real))


@pytest.mark.parametrize("name", [name for name in _FILES if name.startswith("lenet") and "train_test" in name])
def test_lenet_reads_what_the_demo_leaves(name: str) -> None:
    """After `make demo` the LeNet files work as they are: their sources are the demo's files."""
    layers = [layer for layer in _read(_FOLDER / name).layer if layer.type in ("Data", "MemoryData")]
    sources = {layer.data_param.source or layer.memory_data_param.source for layer in layers}
    endings = ("_lmdb", ".parquet")
    assert sources in [{f"out/demo/mnist_{phase}{ending}" for phase in ("train", "test")} for ending in endings]
