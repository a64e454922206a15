"""``cosdask predict``: images prepared as the net's TEST layer says, from files, folders and standard input."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cosdask.cli.main import main
from cosdask.cli.predict import Classifier
from cosdask.nn import Net
from cosdask.proto import array_to_blob

HEAD = """
layer {
  name: "data" type: "MemoryData" top: "data" top: "label" include { phase: TEST }
  source_class: "com.yahoo.ml.caffe.LMDB"
  memory_data_param { source: "nowhere" batch_size: 2 channels: %d height: %d width: %d }
  transform_param { %s }
}
"""
BODY = 'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3 } }\n'
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }\n'
DEPLOY = (
    'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 5 dim: 1 dim: 4 dim: 4 } } }\n'
    + BODY
    + 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }\n'
)
SOLVER = 'net: "net.prototxt"\nbase_lr: 0.01\nlr_policy: "fixed"\nmax_iter: 10\ntest_iter: 1\ntest_interval: 5\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gray 4x4 net as solver, train-test net and deploy net, its model, and one image of its size."""
    (tmp_path / "net.prototxt").write_text(HEAD % (1, 4, 4, "mean_value: 100 scale: 0.01 mirror: true") + BODY + LOSS)
    (tmp_path / "deploy.prototxt").write_text(DEPLOY)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    save_model(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", 16)
    cv2.imwrite(str(tmp_path / "a.png"), image())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def image(side: int = 4) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (side, side), dtype=np.uint8)


def weights(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return rng.normal(0, 0.1, (3, count)).astype(np.float32), np.array([0.1, 0.2, -0.3], np.float32)


def save_model(prototxt: Path, model: Path, count: int) -> None:
    net = Net(str(prototxt))
    net.params = net.from_blobs({"ip": list(weights(count))})
    net.save(str(model))


def expected(pixels: np.ndarray) -> np.ndarray:
    """Probabilities by hand, from finished pixels."""
    weight, bias = weights(pixels.size)
    scores = np.exp(weight @ pixels.ravel() + bias)
    return scores / scores.sum()


def finished(picture: np.ndarray) -> np.ndarray:
    return (picture.astype(np.float32) - 100) * np.float32(0.01)


def said(text: str) -> dict[str, dict[str, float]]:
    """The printed report: for each image its classes with their scores."""
    images: dict[str, dict[str, float]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("  "):
            score, label = line.strip().split("  ", 1)
            images[name][label] = float(score)
        else:
            name = line
            images[name] = {}
    return images


def command(words: str) -> int:
    return main(words.split())


def predict(capsys: pytest.CaptureFixture[str], words: str) -> dict[str, dict[str, float]]:
    assert main(["predict", *words.split()]) == 0
    return said(capsys.readouterr().out)


@pytest.mark.parametrize("net", ["net.prototxt", "solver.prototxt"])
def test_the_test_layers_transform_is_used_and_classes_come_best_first(
    net: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = predict(capsys, f"a.png --net {net} --model net.caffemodel")["a.png"]
    wanted = expected(finished(image()))
    assert list(found) == [str(i) for i in np.argsort(-wanted)]
    np.testing.assert_allclose([found[str(i)] for i in range(3)], wanted, atol=1e-4)


def test_a_deploy_net_takes_mean_and_scale_from_the_flags(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = predict(capsys, "a.png --net net.prototxt --model net.caffemodel")
    deploy = predict(capsys, "a.png --net deploy.prototxt --model net.caffemodel --mean 100 --scale 0.01")
    assert deploy == net


def test_a_mean_file_can_be_given(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mean = array_to_blob(np.full((1, 4, 4), 100, np.float32))
    (folder / "mean.binaryproto").write_bytes(mean.SerializeToString())
    words = "a.png --net deploy.prototxt --model net.caffemodel --mean mean.binaryproto --scale 0.01"
    assert predict(capsys, words) == predict(capsys, "a.png --net net.prototxt --model net.caffemodel")


def test_the_same_image_gets_the_same_answer_though_the_layer_mirrors(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "a.png " * 40 + "--net net.prototxt --model net.caffemodel"
    assert main(["predict", *words.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 160 and len(set(lines)) == 4


def test_an_image_of_another_size_is_resized_to_the_nets_input(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite("big.png", np.full((30, 50), 180, np.uint8))
    found = predict(capsys, "big.png --net net.prototxt --model net.caffemodel")["big.png"]
    wanted = expected(finished(np.full((4, 4), 180)))
    np.testing.assert_allclose([found[str(i)] for i in range(3)], wanted, atol=1e-4)


def test_with_a_mean_file_and_a_crop_the_centre_of_the_resized_image_counts(tmp_path: Path) -> None:
    """The way of Caffe's classifiers: the whole image to the mean's size, then the centre crop."""
    mean = np.arange(36, dtype=np.float32).reshape(1, 6, 6)
    (tmp_path / "mean.binaryproto").write_bytes(array_to_blob(mean).SerializeToString())
    crop = 'crop_size: 4 mean_file: "mean.binaryproto"'
    (tmp_path / "net.prototxt").write_text(HEAD % (1, 6, 6, crop) + BODY + LOSS)
    save_model(tmp_path / "net.prototxt", tmp_path / "m.caffemodel", 16)
    classify = Classifier.open(str(tmp_path / "net.prototxt"), str(tmp_path / "m.caffemodel"), None, None, "0.01")
    png = cv2.imencode(".png", image(6))[1].tobytes()
    wanted = expected((image(6).astype(np.float32) - mean[0])[1:5, 1:5] * np.float32(0.01))
    np.testing.assert_allclose(classify([png], ["a"])[0], wanted, rtol=1e-5)


def test_color_images_go_in_as_blue_green_red(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(HEAD % (3, 2, 2, "scale: 0.01") + BODY + LOSS)
    save_model(tmp_path / "net.prototxt", tmp_path / "m.caffemodel", 12)
    classify = Classifier.open(str(tmp_path / "net.prototxt"), str(tmp_path / "m.caffemodel"), None, None, None)
    bgr = np.random.default_rng(1).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    png = cv2.imencode(".png", bgr)[1].tobytes()
    wanted = expected(bgr.transpose(2, 0, 1).astype(np.float32) * np.float32(0.01))
    np.testing.assert_allclose(classify([png], ["a"])[0], wanted, rtol=1e-5)


def test_folders_are_read_in_the_order_of_names_and_labels_are_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "more" / "deep").mkdir(parents=True)
    (folder / "more" / "notes.txt").write_text("no image")
    for name in ("c.PNG", "b.jpg", "deep/a.bmp"):
        cv2.imwrite(str(folder / "more" / name), image())
    (folder / "labels.txt").write_text("cat\nsea dog\ncow\n\n")
    found = predict(capsys, "more --net net.prototxt --model net.caffemodel --labels labels.txt --top 2")
    assert list(found) == ["more/b.jpg", "more/c.PNG", "more/deep/a.bmp"]
    assert all(len(classes) == 2 and set(classes) <= {"cat", "sea dog", "cow"} for classes in found.values())


def test_an_image_from_standard_input(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO((folder / "a.png").read_bytes())))
    found = predict(capsys, "- --net net.prototxt --model net.caffemodel")
    assert found["-"] == predict(capsys, "a.png --net net.prototxt --model net.caffemodel")["a.png"]


def test_more_images_than_a_batch_are_all_answered(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "many").mkdir()
    for number in range(35):
        cv2.imwrite(f"many/{number:02d}.png", np.full((4, 4), number * 7, np.uint8))
    found = predict(capsys, "many --net net.prototxt --model net.caffemodel")
    assert list(found) == [f"many/{number:02d}.png" for number in range(35)]
    for number, classes in enumerate(found.values()):
        wanted = expected(finished(np.full((4, 4), number * 7)))
        np.testing.assert_allclose([classes[str(i)] for i in range(3)], wanted, atol=1e-4)


def test_a_blob_can_be_chosen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = predict(capsys, "a.png --net deploy.prototxt --model net.caffemodel --mean 100 --scale 0.01 --blob ip")[
        "a.png"
    ]
    weight, bias = weights(16)
    np.testing.assert_allclose([found[str(i)] for i in range(3)], weight @ finished(image()).ravel() + bias, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        ("notes.txt", "notes.txt: no image", 1),
        ("empty", "empty: a folder without images", 1),
        ("b.png", "b.png", 1),
        ("a.png --labels two.txt", "2 labels for the 3 classes", 2),
        ("a.png --blob ipp", 'Did you mean "ip"', 1),
        ("a.png --mean dark", "'dark' is not a number; a mean file's name ends in .binaryproto", 2),
        ("a.png --mean 1,2", "2 mean_value for 1 channels", 1),
        ("a.png --scale big", "'big' is not a number", 2),
        ("a.png --label two.txt", 'unknown flag "-label". Did you mean "labels"', 2),
    ],
)
def test_what_is_wrong_is_named(
    words: str, told: str, code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "notes.txt").write_text("this is text")
    (folder / "two.txt").write_text("cat\ndog\n")
    (folder / "empty").mkdir()
    assert main(["predict", *words.split(), "--net", "net.prototxt", "--model", "net.caffemodel"]) == code
    said = capsys.readouterr()
    assert told in said.err and said.err.count("\n") == 1 and said.out == ""


def test_a_net_without_images_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "flat.prototxt").write_text(DEPLOY.replace("dim: 1 dim: 4 dim: 4", "dim: 16"))
    assert command("predict a.png --net flat.prototxt --model net.caffemodel") == 1
    assert "takes no images" in capsys.readouterr().err
