"""Bad input, each as a real command over real files.

The rule: one message that names the place and the remedy, a non-zero exit code, no half-written output, no traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cosdask.cli.main import main
from cosdask.data import write_lmdb
from cosdask.proto import caffe_pb2

SOLVER = """
net: "net.prototxt"
base_lr: 0.01
lr_policy: "fixed"
max_iter: 4
test_iter: 4
test_interval: 2
snapshot_prefix: "state"
"""
NET = """name: "tiny"
layer {
  name: "data"  type: "MemoryData"  top: "data"  top: "label"
  include { phase: TRAIN }
  source_class: "com.yahoo.ml.caffe.LMDB"
  memory_data_param { source: "train"  batch_size: 4  channels: 1  height: 8  width: 8 }
}
layer {
  name: "data"  type: "MemoryData"  top: "data"  top: "label"
  include { phase: TEST }
  source_class: "com.yahoo.ml.caffe.LMDB"
  memory_data_param { source: "test"  batch_size: 5  channels: 1  height: 8  width: 8 }
}
layer {
  name: "conv1"  type: "Convolution"  bottom: "data"  top: "conv1"
  convolution_param { num_output: 4  kernel_size: 3 }
}
layer { name: "ip1"  type: "InnerProduct"  bottom: "conv1"  top: "ip1"  inner_product_param { num_output: 3 } }
layer { name: "loss"  type: "SoftmaxWithLoss"  bottom: "ip1"  bottom: "label"  top: "loss" }
"""
IMAGES = np.random.default_rng(0).integers(0, 255, (20, 8, 8), dtype=np.uint8)
LABELS = np.arange(20) % 3
TRAIN = "run -conf solver.prototxt -train -model out/m.caffemodel --cluster local[1]"
TEST = "run -conf solver.prototxt -test -model wide.caffemodel -output out/result --cluster local[1]"
FEATURES = "run -conf solver.prototxt -features ip1 -model wide.caffemodel -output out/f --cluster local[1]"
PREDICT = "predict digit.png --net net.prototxt --model wide.caffemodel"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good solver, net and data in the working directory, and weights of a net with another convolution."""
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    (tmp_path / "net.prototxt").write_text(NET)
    write_lmdb(tmp_path / "train", IMAGES, LABELS)
    write_lmdb(tmp_path / "test", IMAGES, LABELS)
    weights = caffe_pb2.NetParameter()
    for shape in ((6, 1, 3, 3), (6,)):
        if not weights.layer:
            weights.layer.add(name="conv1", type="Convolution")
        blob = weights.layer[0].blobs.add(data=[0.0] * int(np.prod(shape)))
        blob.shape.dim.extend(shape)
    (tmp_path / "wide.caffemodel").write_bytes(weights.SerializeToString())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail; gives its message once all else that the rule asks for is checked."""

    def run(words: str, code: int = 1) -> str:
        before = _files(folder)
        assert main(words.split()) == code
        said = capfd.readouterr().err
        assert "Traceback" not in said
        assert _files(folder) == before, "nothing may be left behind"
        told = [line for line in said.splitlines() if line.startswith("cosdask: ")]
        assert len(told) == 1 and told[0].startswith("cosdask: error: ")
        return told[0]

    return run


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "lock.mdb")


def _change(folder: Path, old: str, new: str) -> None:
    text = (folder / "net.prototxt").read_text()
    assert old in text
    (folder / "net.prototxt").write_text(text.replace(old, new))


def _line(text: str) -> int:
    """The line of the net's text that holds these words."""
    return next(number for number, line in enumerate(NET.splitlines(), start=1) if text in line)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (TRAIN.replace("solver.prototxt", "slover.prototxt"), "slover.prototxt"),
        (f"{TRAIN} -weights pretrained.caffemodel", "pretrained.caffemodel"),
        (f"{TRAIN} -snapshot state_iter_9.solverstate", "state_iter_9.solverstate"),
        (TEST.replace("wide", "wyde"), "wyde.caffemodel"),
        (PREDICT.replace("digit.png", "nothere.png"), "nothere.png"),
        ("predict a.png --net nett.prototxt --model wide.caffemodel", "nett.prototxt"),
    ],
)
def test_a_missing_file_is_named(words: str, name: str, folder: Path, refused: Callable[..., str]) -> None:
    if "nothere" in words:
        _change(folder, "num_output: 4", "num_output: 6")
    assert name in refused(words)


def test_a_net_that_the_solver_names_and_that_is_missing_is_named(folder: Path, refused: Callable[..., str]) -> None:
    (folder / "net.prototxt").unlink()
    assert "net.prototxt" in refused(TRAIN)


@pytest.mark.parametrize("words", [TRAIN, TEST, FEATURES, PREDICT])
def test_an_unknown_field_is_answered_with_its_place_and_the_nearest(
    words: str, folder: Path, refused: Callable[..., str]
) -> None:
    _change(folder, "kernel_size", "kernal_size")
    told = refused(words)
    assert f"net.prototxt:{_line('kernel_size')}:" in told
    assert '"kernal_size"' in told and 'Did you mean "kernel_size"' in told


@pytest.mark.parametrize("words", [TRAIN, TEST, FEATURES, PREDICT])
def test_a_bottom_that_nobody_makes_is_named_with_layer_and_nearest_blob(
    words: str, folder: Path, refused: Callable[..., str]
) -> None:
    _change(folder, 'bottom: "data"', 'bottom: "dat"')
    told = refused(words)
    assert 'layer "conv1"' in told and 'bottom "dat"' in told and 'Did you mean "data"' in told


@pytest.mark.parametrize("words", [f"{TRAIN} -weights wide.caffemodel", TEST, FEATURES, PREDICT])
def test_weights_of_the_wrong_shape_name_file_layer_and_both_shapes(words: str, refused: Callable[..., str]) -> None:
    told = refused(words)
    assert "wide.caffemodel" in told and 'layer "conv1"' in told
    assert "(6, 1, 3, 3)" in told and "(4, 1, 3, 3)" in told


def test_weights_that_are_none_are_named(folder: Path, refused: Callable[..., str]) -> None:
    (folder / "notes.caffemodel").write_text("these are no weights")
    assert "notes.caffemodel" in refused(f"{TRAIN} -weights notes.caffemodel")


@pytest.mark.parametrize(("words", "source"), [(TRAIN, "train"), (TRAIN, "test"), (TEST, "test")])
def test_an_empty_lmdb_is_named(words: str, source: str, folder: Path, refused: Callable[..., str]) -> None:
    _change(folder, "num_output: 4", "num_output: 6")
    write_lmdb(folder / "empty", IMAGES[:0], [])
    _change(folder, f'source: "{source}"', 'source: "empty"')
    told = refused(words)
    assert "empty: the LMDB is empty" in told


@pytest.mark.parametrize("words", [TRAIN, TEST])
def test_data_that_are_missing_are_named(words: str, folder: Path, refused: Callable[..., str]) -> None:
    _change(folder, "num_output: 4", "num_output: 6")
    _change(folder, 'source: "test"', 'source: "tset"')
    assert "tset" in refused(words)


def test_an_image_that_is_none_is_named(folder: Path, refused: Callable[..., str]) -> None:
    _change(folder, "num_output: 4", "num_output: 6")
    (folder / "digit.png").write_text("this is no picture")
    assert "digit.png: no image" in refused(PREDICT)


@pytest.mark.parametrize(
    ("flag", "near"),
    [("-trian", '"train"'), ("-clustersise", '"clustersize"'), ("--modell", '"model"'), ("-weigths", '"weights"')],
)
def test_an_unknown_flag_is_answered_with_the_nearest(flag: str, near: str, refused: Callable[..., str]) -> None:
    told = refused(f"{TRAIN} {flag}", code=2)
    assert f'unknown flag "-{flag.lstrip("-")}"' in told and "--help" in told
    assert near in told.lower().replace("-size", "size")


@pytest.mark.parametrize(("phase", "words"), [("TRAIN", TRAIN), ("TEST", TRAIN), ("TEST", TEST), ("TEST", FEATURES)])
def test_a_phase_without_data_is_named_with_the_net(
    phase: str, words: str, folder: Path, refused: Callable[..., str]
) -> None:
    block = next(part for part in NET.split("layer {") if f"phase: {phase}" in part)
    _change(folder, f"layer {{{block}", "")
    told = refused(words)
    assert "net.prototxt: no data in phase" in told and f"include {{ phase: {phase} }}" in told


@pytest.mark.slow
@pytest.mark.parametrize("words", [TRAIN, TEST, FEATURES])
def test_a_row_that_is_no_image_is_named_and_leaves_no_output(
    words: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import cv2

    _change(folder, "num_output: 4", "num_output: 6")
    encoded = [cv2.imencode(".png", image)[1].tobytes() for image in IMAGES]
    for name in ("train", "test"):
        write_lmdb(folder / f"{name}_png", [*encoded[:7], b"no picture", *encoded[8:]], LABELS)
        _change(folder, f'source: "{name}"', f'source: "{name}_png"')
    assert main(words.split()) == 1
    said = capfd.readouterr().err
    assert "00000007" in said and "_png" in said and "Traceback" not in said
    assert not any((folder / "out" / name).exists() for name in ("m.caffemodel", "result", "f"))


def test_train_without_model_is_refused(refused: Callable[..., str]) -> None:
    assert "-model FILE" in refused("run -conf solver.prototxt -train", code=2)
