"""Losses beside softmax and Euclidean loss: where Caffe has rules of its own."""

from pathlib import Path

import numpy as np
import pytest
from single_layer import build, floats, gradient, normal, run

from cosdask.errors import NetError, StorageError
from cosdask.nn.layer import Layer
from cosdask.proto import caffe_pb2


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_hinge_has_no_gradient_where_the_margin_is_exactly_met() -> None:
    """Caffe's sign of 0 is 0."""
    layer = build('type: "HingeLoss"', (1, 3), (1,))
    assert gradient(layer, [floats([1, -1, 0]), floats(0)]).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1, 1)])
def test_labels_may_have_axes_of_one(shape: tuple[int, ...]) -> None:
    """Data layers give (N,), old nets (N, 1, 1, 1)."""
    x, label = normal(0, 3, 4), floats(0, 3, 1)
    text = 'type: "HingeLoss"'
    assert run(build(text, (3, 4), shape), [x, label.reshape(shape)]) == run(build(text, (3, 4), (3,)), [x, label])


@pytest.mark.parametrize("kind", ["HingeLoss", "MultinomialLogisticLoss"])
@pytest.mark.parametrize("wrong", [-1, 4])
def test_a_label_that_is_no_class_makes_the_loss_nan(kind: str, wrong: int) -> None:
    """Never another class's loss: a training on wrong labels must be seen."""
    x = np.abs(normal(0, 2, 4))
    assert np.isnan(run(build(f'type: "{kind}"', (2, 4), (2,)), [x, floats(0, wrong)])[0])


def test_multinomial_loss_clamps_probabilities_and_keeps_their_gradient() -> None:
    """log(max(p, 1e-20)), with gradient -1 / max(p, 1e-20) also where p is 0 (invariant 1)."""
    layer = build('type: "MultinomialLogisticLoss"', (1, 2), (1,))
    bottoms = [floats([0, 1]), floats(0)]
    assert run(layer, bottoms)[0] == pytest.approx(-np.log(1e-20), rel=1e-5)
    np.testing.assert_allclose(gradient(layer, bottoms), [[-1e20, 0]], rtol=1e-5)


def _infogain(fields: str = "", shape: tuple[int, ...] = (4, 3), tops: str = "") -> Layer:
    labels = (shape[0], *shape[2:])
    return build(f'type: "InfogainLoss" {tops} {fields}', shape, labels, (1, 1, 3, 3))


def test_infogain_with_the_identity_is_softmax_loss() -> None:
    """H = 1 weighs the label's own class alone; the second top is the softmax."""
    x, label = normal(0, 4, 3), floats(0, 2, 1, 1)
    loss, top = run(_infogain(tops='top: "l" top: "p"'), [x, label, np.eye(3, dtype=np.float32)[None, None]])
    chosen = _softmax(x)[np.arange(4), label.astype(int)]
    np.testing.assert_allclose(loss, -np.log(chosen).mean(), rtol=1e-5)
    np.testing.assert_allclose(top, _softmax(x), rtol=1e-5)


@pytest.mark.parametrize(("mode", "divisor"), [("FULL", 8), ("VALID", 6), ("BATCH_SIZE", 4), ("NONE", 1)])
@pytest.mark.parametrize("kind", ["InfogainLoss", "SigmoidCrossEntropyLoss"])
def test_ignored_labels_neither_count_nor_get_a_gradient(kind: str, mode: str, divisor: int) -> None:
    """Each normalization divides the same sum (Caffe's LossParameter)."""
    fields = f"loss_param {{ ignore_label: -1 normalization: {mode} }}"
    x = normal(0, 4, 3, 2) if kind == "InfogainLoss" else normal(0, 4, 2)
    label = floats([0, -1], [1, 1], [-1, 0], [1, 1])
    if kind == "InfogainLoss":
        bottoms = [x, label, np.abs(normal(1, 1, 1, 3, 3))]
        layer = _infogain(fields, x.shape)
        terms = bottoms[2][0, 0][label.astype(int)] * np.log(_softmax(x)).transpose(0, 2, 1)
        total = -terms.sum(axis=2)[label >= 0].sum()
    else:
        bottoms, layer = [x, label], build(f'type: "{kind}" {fields}', (4, 2), (4, 2))
        total = (np.log1p(np.exp(x)) - x * label)[label >= 0].sum()
    np.testing.assert_allclose(run(layer, bottoms)[0], total / divisor, rtol=1e-5)
    slope = np.asarray(gradient(layer, bottoms))
    of_ignored = slope.transpose(0, 2, 1)[label < 0] if slope.ndim == 3 else slope[label < 0]
    assert slope.any() and np.isfinite(slope).all() and not of_ignored.any()


@pytest.mark.parametrize("kind", ["InfogainLoss", "SigmoidCrossEntropyLoss"])
def test_a_batch_of_ignored_labels_has_loss_zero(kind: str) -> None:
    """The normalizer is never less than 1: no NaN."""
    fields = "loss_param { ignore_label: -1 normalization: VALID }"
    if kind == "InfogainLoss":
        loss = run(_infogain(fields), [normal(0, 4, 3), -np.ones(4, np.float32), normal(1, 1, 1, 3, 3)])[0]
    else:
        layer = build(f'type: "{kind}" {fields}', (4, 2), (4, 2))
        loss = run(layer, [normal(0, 4, 2), -np.ones((4, 2), np.float32)])[0]
    assert loss == 0


@pytest.mark.parametrize(("fields", "divisor"), [("", 4), ("normalize: true", 8), ("normalize: false", 4)])
def test_sigmoid_loss_reads_the_old_normalize(fields: str, divisor: int) -> None:
    """Default: over the batch size; the old normalize counts targets when true."""
    x, target = normal(0, 4, 2), np.ones((4, 2), np.float32)
    layer = build(f'type: "SigmoidCrossEntropyLoss" loss_param {{ {fields} }}', x.shape, x.shape)
    np.testing.assert_allclose(run(layer, [x, target])[0], np.log1p(np.exp(-x)).sum() / divisor, rtol=1e-5)


def test_sigmoid_loss_stays_finite_for_extreme_scores() -> None:
    """exp(1000) is no float32."""
    layer = build('type: "SigmoidCrossEntropyLoss"', (2, 1), (2, 1))
    bottoms = [floats([1000], [-1000]), floats([1], [1])]
    assert run(layer, bottoms)[0] == 500
    assert gradient(layer, bottoms).tolist() == [[0], [-0.5]]


def test_infogain_clamps_the_value_but_not_the_gradient() -> None:
    """A probability of 0 counts as 1e-20, and still pulls the scores (invariant 1)."""
    bottoms = [floats([0, 200, 0]), floats(0), np.eye(3, dtype=np.float32)[None, None]]
    layer = _infogain(shape=(1, 3))
    assert run(layer, bottoms)[0] == pytest.approx(-np.log(1e-20), rel=1e-5)
    np.testing.assert_allclose(gradient(layer, bottoms), [[-1, 1, 0]], atol=1e-6)


def test_infogain_matrix_from_a_file_is_the_one_from_a_bottom(tmp_path: Path) -> None:
    """A binary BlobProto, as Caffe's source names it."""
    matrix = np.abs(normal(0, 3, 3))
    path = tmp_path / "gain.binaryproto"
    path.write_bytes(caffe_pb2.BlobProto(num=1, channels=1, height=3, width=3, data=matrix.ravel()).SerializeToString())
    text = f'type: "InfogainLoss" infogain_loss_param {{ source: "{path.as_posix()}" }}'
    x, label = normal(1, 4, 3), floats(0, 1, 2, 2)
    from_file = run(build(text, (4, 3), (4,)), [x, label])[0]
    assert from_file == run(_infogain(), [x, label, matrix[None, None]])[0]


def test_an_infogain_file_that_is_damaged_or_missing_is_named(tmp_path: Path) -> None:
    """No traceback of protobuf's: the layer and the file (invariant 10)."""
    path = tmp_path / "gain.binaryproto"
    text = f'type: "InfogainLoss" infogain_loss_param {{ source: "{path.as_posix()}" }}'
    with pytest.raises(StorageError, match=r"gain\.binaryproto"):
        build(text, (4, 3), (4,))
    path.write_bytes(b"\x0a\xff\xff")
    with pytest.raises(NetError, match=r'layer "layer".*gain\.binaryproto is no binary BlobProto'):
        build(text, (4, 3), (4,))
    path.write_bytes(caffe_pb2.BlobProto(data=[1, 2]).SerializeToString())
    with pytest.raises(NetError, match="3 x 3 information gain matrix, but has 2"):
        build(text, (4, 3), (4,))
    path.write_bytes(b"\0" * 100_000)
    with pytest.raises(StorageError, match="larger than"):
        build(text, (4, 3), (4,))


def test_contrastive_loss_of_equal_pairs_has_a_finite_gradient() -> None:
    """A distance of 0 must not make NaN; Caffe divides by d + 1e-4."""
    layer = build('type: "ContrastiveLoss"', (2, 3), (2, 3), (2,))
    x = normal(0, 2, 3)
    bottoms = [x, x, floats(0, 1)]
    assert run(layer, bottoms)[0] == 0.25
    assert not gradient(layer, bottoms).any()


def test_contrastive_loss_ignores_pairs_beyond_the_margin() -> None:
    """Dissimilar pairs that are far enough apart neither cost nor pull."""
    layer = build('type: "ContrastiveLoss" contrastive_loss_param { margin: 2 }', (1, 2), (1, 2), (1,))
    bottoms = [floats([3, 0]), floats([0, 0]), floats(0)]
    assert run(layer, bottoms)[0] == 0
    assert not gradient(layer, bottoms).any()


@pytest.mark.parametrize(
    ("text", "shapes", "problem"),
    [
        ('type: "HingeLoss"', [(4, 3), (3,)], "one label a sample"),
        ('type: "SigmoidCrossEntropyLoss"', [(4, 3), (4,)], "as many targets"),
        ('type: "InfogainLoss"', [(4, 3), (4,)], "third bottom, or infogain_loss_param.source"),
        ('type: "InfogainLoss"', [(4, 3), (4,), (1, 1, 2, 2)], "3 x 3"),
        ('type: "InfogainLoss"', [(4, 3), (4, 2), (1, 1, 3, 3)], "needs 4 labels"),
        ('type: "InfogainLoss" loss_param { normalize: true }', [(4, 3), (4,), (1, 1, 3, 3)], "normalization"),
        ('type: "ContrastiveLoss"', [(4, 3), (4, 2), (4,)], r"\(N, C\), \(N, C\) and \(N\)"),
    ],
)
def test_bottoms_that_do_not_fit_are_refused(text: str, shapes: list[tuple[int, ...]], problem: str) -> None:
    """The error names the layer and what it needs (invariant 8)."""
    with pytest.raises(NetError, match=f'layer "layer".*{problem}'):
        build(text, *shapes)
