"""The TRAIN and TEST nets of the real prototxt files build, run and learn: LeNet, CIFAR-10 quick and full, CaffeNet."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from cosdask import Net
from cosdask.device import compile_function

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
