"""What the golden cases of the other core layers leave open: sums, seeds, kinks, ignored labels, refused fields."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from single_layer import build, floats, forward, gradient, normal, run

from cosdask.errors import NetError


def test_relu_has_no_gradient_at_zero() -> None:
    """Caffe's rule: x > 0, where JAX's maximum gives one half."""
    assert gradient(build('type: "ReLU"', (3,)), [floats(-1, 0, 2)]).tolist() == [0, 0, 1]


def test_large_blobs_give_the_gradient_of_small_ones() -> None:
    """The gradient's pass of its own (``isolated``) changes nothing."""
    x = normal(0, 40, 30, 20)
    expected = np.where(x > 0, np.float32(1), np.float32(0.5))
    layer = build('type: "ReLU" relu_param { negative_slope: 0.5 }', x.shape)
    np.testing.assert_array_equal(gradient(layer, [x]), expected)


def test_the_second_of_two_equal_bottoms_gets_the_maximums_gradient() -> None:
    """Caffe compares the first two with >, and later ones with > against the maximum so far."""
    text, ones = 'type: "Eltwise" eltwise_param { operation: MAX }', np.ones(2, np.float32)
    shares = [gradient(build(text, (2,), (2,), (2,)), [ones] * 3, position).tolist() for position in range(3)]
    assert shares == [[0, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_the_ratio(ratio: float) -> None:
    """Kept values are scaled so that the expectation stays; the gradient has the same mask."""
    layer = build(f'type: "Dropout" dropout_param {{ dropout_ratio: {ratio} }}', (200, 500), phase="TRAIN")
    ones, rng = np.ones((200, 500), np.float32), jax.random.key(5)
    top = np.asarray(run(layer, [ones], rng=rng)[0])
    assert abs(np.mean(top == 0) - ratio) < 0.01
    np.testing.assert_allclose(np.unique(top), [0, 1 / (1 - ratio)], rtol=1e-6)
    flow = jax.grad(lambda x: forward(layer, [x], rng=rng)[0].sum())(jnp.asarray(ones))
    np.testing.assert_array_equal(flow, top)


def test_dropout_of_nothing_passes_everything() -> None:
    """Caffe's usual builds (NDEBUG) run a ratio of 0; no random numbers are needed for it."""
    layer = build('type: "Dropout" dropout_param { dropout_ratio: 0 }', (2, 3), phase="TRAIN")
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert not layer.random
    np.testing.assert_array_equal(run(layer, [values])[0], values)


@pytest.mark.parametrize("ratio", [1, -0.5])
def test_dropout_refuses_a_ratio_that_is_no_probability(ratio: float) -> None:
    """1 is an error in Caffe as well: nothing would be left."""
    with pytest.raises(NetError, match="dropout_ratio"):
        build(f'type: "Dropout" dropout_param {{ dropout_ratio: {ratio} }}', (2,))


@given(size=st.sampled_from([1, 3, 5, 9, 17]), channels=st.integers(1, 20), beta=st.sampled_from([0.5, 0.75, 1.1]))
@settings(max_examples=15)
def test_normalization_across_channels_equals_its_formula(size: int, channels: int, beta: float) -> None:
    """Windows wider than the blob, narrow ones shift by shift and wide ones by reduction (invariant 1)."""
    x, half = normal(channels, 2, channels, 2, 3), size // 2
    squares = np.pad(x.astype(np.float64) ** 2, ((0, 0), (half, half), (0, 0), (0, 0)))
    total = sum(squares[:, i : i + channels] for i in range(size))
    layer = build(f'type: "LRN" lrn_param {{ local_size: {size} alpha: 0.8 beta: {beta} k: 1.5 }}', x.shape)
    np.testing.assert_allclose(run(layer, [x])[0], x * (1.5 + 0.8 / size * total) ** -beta, rtol=1e-5)


@pytest.mark.parametrize(("fields", "shape"), [("local_size: 4", (1, 2, 3, 3)), ("", (2, 3))])
def test_normalization_refuses_even_windows_and_rows(fields: str, shape: tuple[int, ...]) -> None:
    """As Caffe does."""
    with pytest.raises(NetError, match=r"local_size|4 axes"):
        build(f'type: "LRN" lrn_param {{ {fields} }}', shape)


def test_batch_normalization_by_its_sums_gives_back_what_it_saw() -> None:
    """TRAIN adds a batch to empty sums; TEST by these sums then normalizes with the batch's unbiased variance."""
    x, empty = normal(0, 4, 3, 5, 6) * 2 + 1, [jnp.zeros(3), jnp.zeros(3), jnp.zeros(1)]
    train, test = (build('type: "BatchNorm"', x.shape, phase=phase) for phase in ("TRAIN", "TEST"))
    _, sums = train.forward_and_update(empty, [jnp.asarray(x.transpose(0, 2, 3, 1))], None)
    unbiased = x.var(axis=(0, 2, 3), ddof=1)
    np.testing.assert_allclose(sums[1], unbiased, rtol=1e-5)
    expected = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(unbiased + 1e-5)[None, :, None, None]
    np.testing.assert_allclose(run(test, [x], sums)[0], expected, rtol=1e-4, atol=1e-5)


def test_batch_normalization_with_empty_sums_is_finite() -> None:
    """A factor of 0 counts as a mean and variance of 0, as in Caffe."""
    layer = build('type: "BatchNorm"', (2, 3))
    top = run(layer, [np.ones((2, 3), np.float32)], [jnp.zeros(3), jnp.zeros(3), jnp.zeros(1)])[0]
    np.testing.assert_allclose(top, np.full((2, 3), 1e-5**-0.5), rtol=1e-5)


def test_batch_normalization_of_large_blobs_and_large_means() -> None:
    """Its passes (``isolated``) lose no digits where the mean is far greater than the spread."""
    x = (normal(0, 8, 4, 30, 30) + 300).astype(np.float32)
    exact = x.astype(np.float64)
    exact = (exact - exact.mean((0, 2, 3), keepdims=True)) / np.sqrt(exact.var((0, 2, 3), keepdims=True) + 1e-5)
    layer = build('type: "BatchNorm"', x.shape, phase="TRAIN")
    top = run(layer, [x], [jnp.zeros(4), jnp.zeros(4), jnp.zeros(1)])[0]
    np.testing.assert_allclose(top, exact, rtol=1e-3, atol=2e-3)


def test_batch_normalization_refuses_to_be_trained() -> None:
    """A multiplier that is not 0 would let the solver change sums."""
    with pytest.raises(NetError, match="lr_mult"):
        build('type: "BatchNorm" param { lr_mult: 1 }', (2, 3))
    build('type: "BatchNorm" param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }', (2, 3))


def test_a_label_that_is_no_class_makes_the_loss_nan() -> None:
    """Nobody trains on labels that the net cannot give without noticing; ignored ones may be anything."""
    scores, labels = normal(0, 3, 4), floats(0, 255, 3)
    assert np.isnan(run(build('type: "SoftmaxWithLoss"', (3, 4), (3,)), [scores, labels])[0])
    ignoring = build('type: "SoftmaxWithLoss" loss_param { ignore_label: 255 }', (3, 4), (3,))
    assert np.isfinite(run(ignoring, [scores, labels])[0])


def test_all_labels_ignored_is_a_loss_of_zero() -> None:
    """Caffe divides by no less than 1."""
    layer = build('type: "SoftmaxWithLoss" loss_param { ignore_label: 1 }', (2, 3), (2,))
    assert run(layer, [normal(0, 2, 3), floats(1, 1)])[0] == 0


def test_a_hopeless_score_costs_a_finite_loss_and_keeps_its_gradient() -> None:
    """The logarithm stops at the smallest float32's, the gradient does not."""
    layer, scores = build('type: "SoftmaxWithLoss"', (1, 2), (1,)), floats([1000, 0])
    np.testing.assert_allclose(run(layer, [scores, floats(1)])[0], -np.log(np.finfo(np.float32).tiny), rtol=1e-6)
    assert gradient(layer, [scores, floats(1)]).tolist() == [[1, -1]]


def test_ties_count_against_the_label() -> None:
    """Another class with an equal score takes a place among the best, as in Caffe."""
    scores, labels = floats([1, 1, 0], [2, 1, 0]), floats(0, 0)
    assert run(build('type: "Accuracy"', (2, 3), (2,)), [scores, labels])[0] == 0.5
    assert run(build('type: "Accuracy" accuracy_param { top_k: 2 }', (2, 3), (2,)), [scores, labels])[0] == 1


@pytest.mark.parametrize("kind", ["Accuracy", "SoftmaxWithLoss"])
def test_labels_must_be_as_many_as_score_vectors(kind: str) -> None:
    """The text gives both shapes."""
    with pytest.raises(NetError, match=r"4 labels.*\(4, 3\)"):
        build(f'type: "{kind}"', (4, 5), (4, 3))


@pytest.mark.parametrize(
    ("text", "shapes", "said"),
    [
        ('type: "InnerProduct"', [(2, 3)], "num_output"),
        ('type: "Accuracy" accuracy_param { top_k: 9 }', [(4, 5), (4,)], "top_k"),
        ('type: "EuclideanLoss"', [(4, 5), (4, 6)], "equal rows"),
        ('type: "SoftmaxWithLoss"', [(4, 5), (2, 2)], "same number of rows"),
        ('type: "Concat"', [(2, 3, 4), (2, 3, 5)], "cannot be joined"),
        ('type: "Concat" concat_param { axis: 1 concat_dim: 1 }', [(2, 3)], "not both"),
        ('type: "Eltwise"', [(2, 3), (3, 2)], "must be equal"),
        ('type: "Eltwise" eltwise_param { coeff: 1 }', [(2,), (2,)], "coeff"),
        ('type: "Eltwise" eltwise_param { operation: MAX coeff: 1 coeff: 1 }', [(2,), (2,)], "SUM only"),
        ('type: "Flatten" flatten_param { axis: 2 end_axis: 0 }', [(2, 3, 4)], "end_axis"),
        ('type: "Scale" scale_param { axis: 1 num_axes: 3 }', [(2, 3)], "beyond"),
        ('type: "Scale"', [(2, 3, 4), (4,)], "must equal"),
        ('type: "Bias" bias_param { num_axes: -2 }', [(2, 3)], "num_axes"),
    ],
)
def test_settings_that_cannot_work_name_the_layer(text: str, shapes: list[tuple[int, ...]], said: str) -> None:
    """Errors say which layer, what is wrong and what would do (invariant 8)."""
    with pytest.raises(NetError, match=said) as error:
        build(text, *shapes)
    assert error.value.where["layer"] == "layer"


def test_an_inputs_shape_serves_all_its_tops() -> None:
    """One shape for all, one for each, or none where the caller gives them."""
    shape = "shape { dim: 2 dim: 3 }"
    tops = 'type: "Input" top: "a" top: "b"'
    assert build(f"{tops} input_param {{ {shape} }}").top_shapes == [(2, 3), (2, 3)]
    assert build(f"{tops} input_param {{ {shape} shape {{ dim: 4 }} }}").top_shapes == [(2, 3), (4,)]
    assert build(tops).top_shapes == []
    with pytest.raises(NetError, match="3 times for 2"):
        build(f"{tops} input_param {{ {shape} {shape} {shape} }}")
