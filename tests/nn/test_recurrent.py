"""LSTM and RNN: state over calls, sequence starts, exposed state, weights in Caffe's order."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from single_layer import build, floats, forward, normal, run

from cosdask.errors import NetError
from cosdask.nn.layer import Array, Layer

_KINDS = ("LSTM", "RNN")


def _layer(kind: str, steps: int = 6, exposed: bool = False, static: bool = False) -> Layer:
    """A layer of 3 samples, 4 inputs, 5 hidden values."""
    states = [(1, 3, 5)] * ({"LSTM": 2, "RNN": 1}[kind] if exposed else 0)
    tops = " ".join(f'top: "t{n}"' for n in range(1 + len(states)))
    fields = "num_output: 5" + (" expose_hidden: true" if exposed else "")
    shapes = [(steps, 3, 4), (steps, 3), *([(3, 2)] if static else []), *states]
    return build(f'type: "{kind}" {tops} recurrent_param {{ {fields} }}', *shapes)


def _weights(layer: Layer) -> list[Array]:
    return [jnp.asarray(normal(10 + n, *weight.shape)) * 0.5 for n, weight in enumerate(layer.weights)]


@functools.cache
def _compiled(kind: str, steps: int) -> tuple[Layer, Callable[..., tuple[list[Array], list[Array]]]]:
    layer = _layer(kind, steps)
    return layer, jax.jit(layer.forward_with_state)


@pytest.mark.parametrize("kind", _KINDS)
@given(cut=st.sampled_from([1, 3, 5]), cont=st.lists(st.sampled_from([0.0, 1.0]), min_size=18, max_size=18))
@settings(max_examples=20)
def test_a_sequence_in_two_calls_gives_what_one_call_gives(kind: str, cut: int, cont: list[float]) -> None:
    """State carried over a call is the state within it, wherever sequences start (contract: net.forward)."""
    x, marks = jnp.asarray(normal(0, 6, 3, 4)), jnp.asarray(floats(*cont).reshape(6, 3))
    layer, whole = _compiled(kind, 6)
    (_, first), (_, second) = _compiled(kind, cut), _compiled(kind, 6 - cut)
    weights = _weights(layer)
    (expected,), last = whole(weights, [x, marks], layer.initial_state(3))
    (before,), state = first(weights, [x[:cut], marks[:cut]], layer.initial_state(3))
    (after,), end = second(weights, [x[cut:], marks[cut:]], state)
    np.testing.assert_allclose(jnp.concatenate([before, after]), expected, rtol=1e-5, atol=1e-6)
    for blob, wanted in zip(end, last, strict=True):
        np.testing.assert_allclose(blob, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", _KINDS)
def test_a_sequence_start_forgets_the_state(kind: str) -> None:
    """Where cont is 0, nothing of the state before shows."""
    layer = _layer(kind)
    x, cont = normal(0, 6, 3, 4), np.ones((6, 3), np.float32)
    cont[2] = 0
    changed = x.copy()
    changed[:2] += 1
    before, after = (run(layer, [values, cont], _weights(layer))[0] for values in (x, changed))
    assert not np.allclose(before[:2], after[:2])
    assert np.array_equal(before[2:], after[2:])


@pytest.mark.parametrize("kind", _KINDS)
def test_exposed_state_does_what_carried_state_does(kind: str) -> None:
    """expose_hidden is the pure way of carrying state over: the last state's tops feed the next call's bottoms."""
    inner, shown = _layer(kind, 3), _layer(kind, 3, exposed=True)
    x, cont, weights = normal(0, 6, 3, 4), np.ones((6, 3), np.float32), _weights(_layer(kind))
    (first,), state = inner.forward_with_state(weights, [x[:3], cont[:3]], inner.initial_state(3))
    (second,), _ = inner.forward_with_state(weights, [x[3:], cont[3:]], state)
    zeros = [np.zeros((1, 3, 5), np.float32)] * inner.n_state
    top, *exposed = forward(shown, [x[:3], cont[:3], *zeros], weights)
    assert np.array_equal(top, first)
    assert np.array_equal(forward(shown, [x[3:], cont[3:], *exposed], weights)[0], second)
    assert shown.initial_state(3) == []


@pytest.mark.parametrize("kind", _KINDS)
def test_no_gradient_flows_through_exposed_state(kind: str) -> None:
    """Caffe does not train across calls: neither into the first state nor out of the last (invariant 1)."""
    layer = _layer(kind, exposed=True)
    weights, x, cont = _weights(layer), jnp.asarray(normal(0, 6, 3, 4)), jnp.ones((6, 3), jnp.float32)
    states = [jnp.asarray(normal(5 + n, 1, 3, 5)) for n in range(layer.n_state)]

    def total(x: Array, states: list[Array], top: int) -> Array:
        return layer.forward(weights, [x, cont, *states], None)[top].sum()

    into = jax.grad(total, argnums=1)(x, states, 0)
    assert not any(blob.any() for blob in into)
    out_of_top, out_of_state = (jax.grad(total)(x, states, top) for top in (0, 1))
    assert out_of_top.any() and not out_of_state.any()
    assert layer.no_gradient == (1, *range(2, 2 + layer.n_state))


def test_weights_come_in_the_order_of_caffes_unrolled_net() -> None:
    """A caffemodel lists them so: from x, bias, from static, from the state; RNN's output last."""
    assert [weight.shape for weight in _layer("LSTM", static=True).weights] == [(20, 4), (20,), (20, 2), (20, 5)]
    shapes = [(5, 4), (5,), (5, 2), (5, 5), (5, 5), (5,)]
    assert [weight.shape for weight in _layer("RNN", static=True).weights] == shapes


def test_all_axes_of_x_behind_the_sample_are_one_input() -> None:
    """x (T, N, 2, 2) is x (T, N, 4)."""
    layer = build('type: "LSTM" recurrent_param { num_output: 5 }', (6, 3, 2, 2), (6, 3))
    x, cont = normal(0, 6, 3, 4), np.ones((6, 3), np.float32)
    weights = _weights(layer)
    folded = run(layer, [x.reshape(6, 3, 2, 2), cont], weights)[0]
    assert np.array_equal(folded, run(_layer("LSTM"), [x, cont], weights)[0])


def test_lstm_is_lstm_units_in_a_row() -> None:
    """The single step, fed with the same sums, gives the same hidden values."""
    layer, unit = _layer("LSTM"), build('type: "LSTMUnit" top: "c" top: "h"', (1, 3, 5), (1, 3, 20), (1, 3))
    x, cont = jnp.asarray(normal(0, 6, 3, 4)), jnp.asarray(np.array([[1, 0, 1]] * 6, np.float32))
    weights = _weights(layer)
    (expected,) = run(layer, [x, cont], weights)
    cell = hidden = jnp.zeros((1, 3, 5), jnp.float32)
    for step in range(6):
        kept = hidden[0] * cont[step][:, None]
        sums = x[step] @ weights[0].T + weights[1][None, :] + kept @ weights[2].T
        cell, hidden = run(unit, [cell, sums[None], cont[step][None]])
        np.testing.assert_allclose(hidden[0], expected[step], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "shapes", "problem"),
    [
        ('type: "LSTM"', [(6, 3, 4), (6, 3)], "num_output"),
        ('type: "LSTM" recurrent_param { num_output: 5 }', [(6, 3, 4), (3, 6)], "sequence indicators"),
        ('type: "LSTM" recurrent_param { num_output: 5 }', [(6, 3, 4), (6, 3), (2, 4)], "static bottom needs 3 rows"),
        ('type: "RNN" recurrent_param { num_output: 5 expose_hidden: true }', [(6, 3, 4), (6, 3)], "3 to 4 bottom"),
        (
            'type: "RNN" top: "o" top: "h" recurrent_param { num_output: 5 expose_hidden: true }',
            [(6, 3, 4), (6, 3), (3, 5)],
            r"shape \(1, 3, 5\)",
        ),
        ('type: "RNN" top: "o" top: "h" recurrent_param { num_output: 5 }', [(6, 3, 4), (6, 3)], "1 top"),
        ('type: "LSTMUnit" top: "c" top: "h"', [(1, 3, 5), (1, 3, 15), (1, 3)], "4H"),
    ],
)
def test_bottoms_that_do_not_fit_are_refused(text: str, shapes: list[tuple[int, ...]], problem: str) -> None:
    """The error names the layer and what it needs (invariant 8)."""
    with pytest.raises(NetError, match=f'layer "layer".*{problem}'):
        build(text, *shapes)
