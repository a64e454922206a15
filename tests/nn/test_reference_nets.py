"""The TRAIN and TEST nets of the real prototxt files build, run and learn: LeNet, CIFAR-10 quick and full, CaffeNet."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from cosdask import Net
from cosdask.cli.nets import is_solver
from cosdask.data import is_data_layer
from cosdask.device import compile_function
from cosdask.proto import filter_net, read_net

#: file, image (channels, size), classes; CaffeNet on smaller images, which give it smaller weights
NETS = {
    "bvlc/mnist_lenet_train_test": ((1, 28), 10),
    "caffeonspark/lenet_memory_train_test": ((1, 28), 10),
    "caffeonspark/lenet_dataframe_train_test": ((1, 28), 10),
    "bvlc/cifar10_cifar10_quick_train_test": ((3, 32), 10),
    "caffeonspark/cifar10_quick_train_test": ((3, 32), 10),
    "bvlc/cifar10_cifar10_full_train_test": ((3, 32), 10),
    "bvlc/bvlc_reference_caffenet_train_val": ((3, 67), 1000),
    "caffeonspark/caffenet_train_net": ((3, 67), 2),
    "caffeonspark/bvlc_reference_net": ((3, 67), 1000),
}
BATCH = 2


def build(folder: Path, name: str, phase: str) -> Net:
    (channels, size), _ = NETS[name]
    shapes = {"data": (BATCH, channels, size, size), "label": (BATCH,)}
    return Net(folder / f"{name}.prototxt", phase, input_shapes=shapes, seed=0)


def rows(name: str) -> dict[str, np.ndarray]:
    (channels, size), classes = NETS[name]
    rng = np.random.default_rng(0)
    return {
        "data": rng.standard_normal((BATCH, channels, size, size)).astype(np.float32),
        "label": rng.integers(0, classes, BATCH).astype(np.float32),
    }


@pytest.mark.parametrize("name", NETS)
def test_the_train_net_runs_forward_and_backward(name: str, reference_prototxt: Path) -> None:
    """The loss of a fresh net is near that of guessing, and every weight gets a gradient, finite and not all zero."""
    net = build(reference_prototxt, name, "TRAIN")
    value = compile_function(jax.value_and_grad(lambda p, given, rng: net.loss(p, given, rng)[0]))
    loss, gradient = value(net.params, rows(name), jax.random.key(0))
    assert 0 < float(loss) < 4 * np.log(NETS[name][1])
    for layer, arrays in net.to_blobs(gradient).items():
        for position, array in enumerate(arrays):
            assert np.isfinite(array).all(), f"{layer}/{position}"
            assert array.any(), f"{layer}/{position}"


@pytest.mark.parametrize("name", NETS)
def test_the_test_net_gives_its_outputs(name: str, reference_prototxt: Path) -> None:
    """Accuracy and loss, from the same weights by layer name."""
    net = build(reference_prototxt, name, "TEST")
    found = net.forward(rows(name))
    assert set(found) == set(net.outputs)
    assert any("accuracy" in output for output in net.outputs) or name == "caffeonspark/caffenet_train_net"
    assert all(np.isfinite(array).all() for array in found.values())


#: shapes of what data layers of nets would read, by the beginning of the file's name
FED = {
    "bvlc_alexnet": {"data": (1, 3, 227, 227), "label": (1,)},
    "bvlc_googlenet": {"data": (1, 3, 224, 224), "label": (1,)},
    "bvlc_reference": {"data": (1, 3, 227, 227), "label": (1,)},
    "finetune": {"data": (1, 3, 227, 227), "label": (1,)},
    "cifar10": {"data": (1, 3, 32, 32), "label": (1,)},
    "hdf5": {"data": (2, 4), "label": (2, 1)},
    "mnist_mnist": {"data": (2, 1, 28, 28)},
    "mnist": {"data": (2, 1, 28, 28), "label": (2,)},
    "siamese": {"pair_data": (2, 2, 28, 28), "sim": (2,)},
}
#: stages without which these nets have holes, as their solvers state them
STAGES = {
    ("mnist_mnist_autoencoder", "TEST"): ("test-on-test",),
    ("lrcn_cos", "TRAIN"): ("freeze-convnet", "factored", "2-layer"),
    ("lrcn_cos", "TEST"): ("freeze-convnet", "factored", "2-layer", "test-on-train"),
}
#: nets to compile, of kinds that the tests above do not run
COMPILED = ("bvlc_googlenet_deploy", "lrcn_word_to_preds.deploy", "lstm_deploy", "siamese_mnist_siamese")


def all_nets(folder: Path) -> list[tuple[Path, str]]:
    """Each net file in each phase; those that state their inputs themselves have one phase."""
    files = [path for path in sorted(folder.rglob("*.prototxt")) if not is_solver(str(path))]
    return [(path, phase) for path in files for phase in ("TRAIN", "TEST")]


def traced(net: Net, compiled: bool = False) -> None:
    """The net's compiled function is made from shapes alone: no weights are drawn; gradients too in TRAIN."""
    params = {}
    for key, ref in net.graph.owned.items():
        axes = ref.weight.axes or range(len(ref.weight.shape))
        params[key] = jax.ShapeDtypeStruct([ref.weight.shape[axis] for axis in axes], np.float32)
    inputs = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in net.inputs.items()}
    call = jax.value_and_grad(net.loss, has_aux=True) if net.phase == "TRAIN" else net.apply
    key = jax.eval_shape(jax.random.key, 0)
    if compiled:
        compile_function(call).lower(params, inputs, key).compile()
    found = jax.eval_shape(call, params, inputs, key)
    outputs = found[0][1][0] if net.phase == "TRAIN" else found[0]
    assert {name: value.shape for name, value in outputs.items()} == {
        name: net.blob_shapes[name] for name in net.outputs
    }


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_every_real_net_builds_and_traces_in_both_phases(
    reference_prototxt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    """All files that are nets, from shapes where their data are not here; outputs have the shapes stated.

    XLA takes them all too; that takes minutes, so ``make test`` compiles one of each kind (below).
    """
    monkeypatch.chdir(tmp_path)
    nets = all_nets(reference_prototxt)
    assert len({path for path, _ in nets}) == 34
    for path, phase in nets:
        fed = next((shapes for start, shapes in FED.items() if path.stem.startswith(start)), {})
        message = filter_net(read_net(path), phase, 0, STAGES.get((path.stem, phase), ()))
        tops = [top for layer in message.layer if is_data_layer(layer) for top in layer.top]
        shapes = {top: fed[top] for top in tops if top in fed}
        net = Net(path, phase, stages=STAGES.get((path.stem, phase), ()), input_shapes=shapes, seed=0)
        traced(net, compiled)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_other_kinds_of_nets_compile(name: str, reference_prototxt: Path) -> None:
    """XLA takes them too."""
    (path,) = reference_prototxt.rglob(f"{name}.prototxt")
    traced(Net(path, "TEST"), compiled=True)
