"""Pooling: who gets the gradient of a tie, large windows, isolated passes, stochastic draws, and refused fields."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from single_layer import build, forward, gradient, normal, run

from cosdask.errors import NetError
from cosdask.nn.layer import Layer


def pooling(fields: str, shape: tuple[int, ...], phase: str = "TEST", tops: str = "") -> Layer:
    return build(f'type: "Pooling" {tops} pooling_param {{ {fields} }}', shape, phase=phase)


def windows(layer: Layer, kernel: int, stride: int, pad: int) -> list[tuple[int, int, slice, slice]]:
    """Each window's output place and the part of the bottom it sees."""
    _, _, height, width = layer.bottom_shapes[0]
    _, _, high, wide = layer.top_shapes[0]

    def part(i: int, size: int) -> slice:
        return slice(max(i * stride - pad, 0), min(i * stride - pad + kernel, size))

    return [(i, j, part(i, height), part(j, width)) for i in range(high) for j in range(wide)]


def test_a_last_window_beyond_the_bottom_is_left_out_on_both_axes() -> None:
    """Caffe looks at both axes as soon as one is padded."""
    layer = pooling("pool: MAX kernel_h: 3 kernel_w: 1 stride_h: 1 stride_w: 3 pad_h: 1 pad_w: 0", (1, 1, 5, 5))
    assert layer.top_shapes == [(1, 1, 5, 2)]
    unpadded = pooling("pool: MAX kernel_h: 3 kernel_w: 1 stride_h: 1 stride_w: 3", (1, 1, 5, 5))
    assert unpadded.top_shapes == [(1, 1, 3, 3)]


@given(
    kernel=st.integers(1, 9),
    stride=st.integers(1, 3),
    pad=st.integers(0, 2),
    floor=st.booleans(),
    levels=st.sampled_from([2, 1000]),
)
@settings(max_examples=10)
def test_maxima_places_and_gradients_follow_the_definition(
    kernel: int, stride: int, pad: int, floor: bool, levels: int
) -> None:
    """The first maximum in reading order wins, for windows of any size and with many ties (invariant 1)."""
    stride, pad = min(stride, kernel), min(pad, kernel - 1)
    x = np.random.default_rng(kernel).integers(0, levels, (2, 2, 9, 10)).astype(np.float32)
    fields = f"kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: {'FLOOR' if floor else 'CEIL'}"
    layer = pooling(fields, x.shape, tops='top: "top" top: "places"')
    top, places = run(layer, [x])
    wanted, first, flow = np.zeros_like(top), np.zeros_like(places), np.zeros_like(x)
    for i, j, rows, columns in windows(layer, kernel, stride, pad):
        for n in range(2):
            for c in range(2):
                seen = x[n, c, rows, columns]
                row, column = np.unravel_index(seen.argmax(), seen.shape)
                wanted[n, c, i, j] = seen.max()
                first[n, c, i, j] = (rows.start + row) * 10 + columns.start + column
                flow[n, c, rows.start + row, columns.start + column] += 1
    np.testing.assert_array_equal(top, wanted)
    np.testing.assert_array_equal(places, first)
    np.testing.assert_allclose(gradient(layer, [x]), flow)


@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_large_blobs_give_the_numbers_of_their_halves(method: str) -> None:
    """Blobs large enough for passes of their own (``isolated``) give what small ones give without them."""
    x = normal(0, 8, 16, 24, 24)
    fields = f"pool: {method} kernel_size: 3 stride: 2 pad: 1"
    whole, part = pooling(fields, x.shape), pooling(fields, (1, 16, 24, 24))
    pieces = [x[i : i + 1] for i in range(8)]
    np.testing.assert_allclose(run(whole, [x])[0], np.concatenate([run(part, [p])[0] for p in pieces]), rtol=1e-6)
    np.testing.assert_allclose(
        gradient(whole, [x]), np.concatenate([gradient(part, [p]) for p in pieces]), rtol=1e-6, atol=1e-7
    )


def test_windows_beyond_the_bottom_average_to_zero() -> None:
    """Rounding up with a stride larger than the kernel can leave a last window with nothing in it."""
    layer = pooling("pool: AVE kernel_size: 1 stride: 5", (1, 1, 7, 7))
    top = run(layer, [np.ones((1, 1, 7, 7), np.float32)])[0]
    assert top[0, 0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_no_rows_give_no_rows() -> None:
    """An empty partition's frame goes through."""
    layer = pooling("kernel_size: 2 stride: 2", (1, 2, 4, 4))
    assert run(layer, [np.zeros((0, 2, 4, 4), np.float32)])[0].shape == (0, 2, 2, 2)


def test_stochastic_pooling_draws_in_proportion_in_train() -> None:
    """Each value of a window is drawn as often as it is large, and the gradient flows to the one drawn."""
    x = np.tile(np.array([[1.0, 0], [2, 5]], np.float32), (4000, 1, 1, 1))
    layer = pooling("pool: STOCHASTIC kernel_size: 2", x.shape, phase="TRAIN")
    rng = jax.random.key(0)
    top = np.asarray(run(layer, [x], rng=rng)[0]).ravel()
    for value, share in ((1, 1 / 8), (0, 0), (2, 2 / 8), (5, 5 / 8)):
        assert abs(np.mean(top == value) - share) < 0.03
    flow = jax.grad(lambda x: forward(layer, [x], rng=rng)[0].sum())(jnp.asarray(x))
    assert np.array_equal(np.asarray(flow * x).sum((1, 2, 3)), top)
    assert np.array_equal(np.asarray(flow).sum((1, 2, 3)), np.ones(4000))


def test_stochastic_pooling_takes_the_weighted_mean_in_test() -> None:
    """sum(x²) / sum(x), and 0 for a window of zeros."""
    x = np.array([[[[1, 0, 0, 0], [2, 5, 0, 0]]]], np.float32)
    layer = pooling("pool: STOCHASTIC kernel_size: 2 stride: 2", x.shape)
    np.testing.assert_allclose(run(layer, [x])[0].ravel(), [30 / 8, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("", "kernel_size"),
        ("kernel_h: 2", "both kernel_h and kernel_w"),
        ("kernel_size: 2 kernel_h: 2 kernel_w: 2", "kernel_size"),
        ("kernel_size: 0", "must be 1 or more"),
        ("kernel_size: 2 stride: 0", "must be 1 or more"),
        ("kernel_size: 2 stride: 1 stride_h: 1 stride_w: 1", "stride"),
        ("kernel_size: 2 pad_h: 1", "both pad_h and pad_w"),
        ("kernel_size: 2 pad: 2", "less than kernel"),
        ("kernel_size: 9", "larger than the bottom"),
        ("kernel_size: 2 global_pooling: true", "give no kernel size"),
        ("global_pooling: true stride: 2", "must be 0 and stride"),
        ("pool: STOCHASTIC kernel_size: 2 pad: 1", "MAX and AVE only"),
    ],
)
def test_fields_that_cannot_work_name_the_layer_and_the_field(fields: str, said: str) -> None:
    """Errors say which layer, which field and what to do (invariant 8)."""
    with pytest.raises(NetError, match=said) as error:
        pooling(fields, (1, 2, 6, 6))
    assert error.value.where["layer"] == "layer"


def test_places_are_for_maxima_only() -> None:
    """An average comes from no one place."""
    with pytest.raises(NetError, match="MAX only"):
        pooling("pool: AVE kernel_size: 2", (1, 2, 6, 6), tops='top: "top" top: "places"')
