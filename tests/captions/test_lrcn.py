"""LRCN's own solver and nets: they load as they are, train from a captions table, and caption."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import cosdask
from cosdask import Net, Solver
from cosdask.captions import Captioner, Vocab, coco_captions, embed_captions
from cosdask.data import write_table
from cosdask.errors import CosdaskError
from cosdask.proto import caffe_pb2, read_net, read_solver

SENTENCES = (
    "A red square on a dark ground.",
    "Two green lines cross.",
    "A large blue circle shines in the night.",
    "Nothing but gray.",
)
LENGTH = 21
FACTORED = ("freeze-convnet", "factored", "2-layer")


def rows(folder: Path) -> tuple[Path, Vocab]:
    """Four pictures with a sentence each as the table that LRCN's data layer reads, and the vocabulary."""
    for number, image in enumerate(pictures()):
        cv2.imwrite(str(folder / f"{number}.png"), image[:, :, ::-1])
    images = [{"id": n, "file_name": f"{n}.png", "height": 72, "width": 72} for n in range(4)]
    annotations = [{"id": n, "image_id": n, "caption": text} for n, text in enumerate(SENTENCES)]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    captions = coco_captions(folder / "captions.json")
    vocab = Vocab.from_captions(captions)
    table = folder / "rows"
    write_table(embed_captions(captions, folder, vocab, LENGTH), str(table), "parquet")
    return table, vocab


def pictures() -> list[np.ndarray]:
    """So unlike each other that random convolutions keep them apart, whatever the order in which they are summed."""
    images = np.full((4, 72, 72, 3), 10, np.uint8)
    images[0, 12:60, 12:60, 0] = 250
    images[1, 26:46, :, 1] = images[1, :, 26:46, 1] = 250
    cv2.circle(images[2], (36, 36), 24, (30, 60, 250), -1)
    images[3] = 128
    return list(images)


def shrink(message: caffe_pb2.NetParameter, classes: int) -> caffe_pb2.NetParameter:
    """The net for small images, with few units: its layers, stages, and connections stay as they are."""
    sizes = {96: 12, 256: 16, 384: 8, 4096: 48, 1000: 64, 8801: classes}
    for layer in message.layer:
        for param in (layer.convolution_param, layer.inner_product_param, layer.recurrent_param, layer.embed_param):
            if param.num_output:
                param.num_output = sizes[param.num_output]
        if layer.type == "Dropout":
            layer.dropout_param.dropout_ratio = 0.02
        if layer.type == "Embed":
            layer.embed_param.input_dim = classes
    return message


def small_solver(reference: Path, folder: Path) -> tuple[caffe_pb2.SolverParameter, Vocab]:
    """LRCN's solver over :func:`rows`, with images of 67 pixels and few units."""
    table, vocab = rows(folder)
    net = shrink(read_net(reference / "lrcn_cos.prototxt"), vocab.classes)
    for layer in net.layer:
        if layer.type == "CoSData":
            layer.cos_data_param.source = str(table)
            layer.cos_data_param.batch_size = 4
            image = layer.cos_data_param.top[0]
            image.out_height = image.out_width = image.transform_param.crop_size = 67
            image.transform_param.mirror = False
    (folder / "net.prototxt").write_text(cosdask.proto.to_text(net))
    solver = read_solver(reference / "lrcn_solver.prototxt")
    solver.net = str(folder / "net.prototxt")
    solver.snapshot_prefix = str(folder / "lrcn")
    return solver, vocab


def save_convnet(net: str, path: Path) -> None:
    """Weights for the frozen layers, which state no fillers: random ones that keep images apart."""
    convnet = Net(net, phase="TRAIN", stages=FACTORED, seed=1)
    rng = np.random.default_rng(0)
    blobs = {
        name: arrays for name, arrays in convnet.to_blobs(convnet.params).items() if name.startswith(("conv", "fc"))
    }
    for name, (weight, bias) in blobs.items():
        std = (2 / np.prod(weight.shape[1:])) ** 0.5 * {"conv1": 0.01, "fc8": 2}.get(name, 1)
        weight[:], bias[:] = rng.normal(0, std, weight.shape), 0
    convnet.params = convnet.from_blobs(blobs)
    convnet.save(path)


@pytest.fixture
def reference(reference_prototxt: Path) -> Path:
    return reference_prototxt / "caffeonspark"


@pytest.mark.parametrize(
    ("stages", "second"),
    [
        (FACTORED, ["lstm1", "cont_sentence", "fc8"]),
        (("factored", "2-layer", "trainval"), ["lstm1", "cont_sentence", "fc8"]),
        (("freeze-convnet", "unfactored", "2-layer"), ["lstm1", "cont_sentence"]),
        (("unfactored", "1-layer"), None),
    ],
    ids=["the-solvers", "trained-convnet", "unfactored", "one-lstm"],
)
def test_each_variant_has_its_layers(reference: Path, stages: tuple[str, ...], second: list[str] | None) -> None:
    """Stages choose the frozen convolutions, the factored LSTMs and the layer that predict reads (sheet 5.6)."""
    net = cosdask.proto.filter_net(read_net(reference / "lrcn_cos.prototxt"), "TRAIN", 0, stages)
    layers = {layer.name: layer for layer in net.layer}
    assert len(layers) == len(net.layer), "a layer is there twice"
    frozen = [param.lr_mult for param in layers["conv1"].param] == [0, 0]
    assert frozen == ("freeze-convnet" in stages)
    assert layers["fc8"].param[0].lr_mult == pytest.approx(0.1)
    assert (list(layers["lstm2"].bottom) if "lstm2" in layers else None) == second
    assert list(layers["lstm1"].bottom)[2:] == ([] if "factored" in stages else ["fc8"])
    assert layers["predict"].bottom[0] == ("lstm2" if "2-layer" in stages else "lstm1")
    assert ("data" in layers) == ("trainval" not in stages)


def test_a_net_without_rows_for_its_stages_is_refused(reference: Path) -> None:
    """Stage trainval takes the training layer away and brings no other; the error says what then lacks, and where."""
    with pytest.raises(CosdaskError, match=r'lrcn_cos.prototxt:134: layer "silence".*"label" is made by no layer'):
        Net(reference / "lrcn_cos.prototxt", phase="TRAIN", stages=("factored", "2-layer", "trainval"))


@pytest.mark.slow
def test_lrcn_learns_captions_by_heart(reference: Path, tmp_path: Path) -> None:
    """The solver's stages, frozen convolutions and factored LSTMs train; the two deploy nets then say the sentences."""
    message, vocab = small_solver(reference, tmp_path)
    assert message.train_state.stage == list(FACTORED) and message.clip_gradients == 10
    save_convnet(message.net, tmp_path / "start.caffemodel")
    message.type, message.base_lr, message.lr_policy, message.power, message.max_iter = "Adam", 0.01, "poly", 1, 400
    for field in ("average_loss", "snapshot"):
        message.ClearField(field)
    solver = Solver(message, weights=str(tmp_path / "start.caffemodel"))
    before = solver.net.to_blobs(solver.net.params)
    solver.step(1)
    first = solver.loss
    # 20 times the loss of guessing among all words
    assert first == pytest.approx(20 * np.log(vocab.classes), rel=0.2)
    solver.step(399)
    assert solver.loss < 0.1 * first
    after = solver.net.to_blobs(solver.net.params)
    changed = {
        name: any(not np.array_equal(a, b) for a, b in zip(after[name], before[name], strict=True)) for name in after
    }
    frozen = {f"conv{i}" for i in range(1, 6)} | {"fc6", "fc7"}
    assert {name for name, moved in changed.items() if not moved} == frozen

    solver.net.save(tmp_path / "lrcn.caffemodel")
    image = shrink(read_net(reference / "lstm_deploy.prototxt"), vocab.classes)
    words = shrink(read_net(reference / "lrcn_word_to_preds.deploy.prototxt"), vocab.classes)
    captioner = Captioner(
        Net(image, input_shapes={"data": (4, 3, 67, 67)}),
        Net(words, input_shapes={"cont_sentence": (1, 4), "input_sentence": (1, 4), "image_features": (4, 64)}),
        vocab,
        weights=tmp_path / "lrcn.caffemodel",
        border=(72 - 67) / 2 / 72,
        batch=4,
    )
    for how in ({}, {"beam": 3}):
        found = [caption.text for caption in captioner.generate(pictures(), **how)]
        assert sum(text == wanted for text, wanted in zip(found, SENTENCES, strict=True)) >= 3, found
