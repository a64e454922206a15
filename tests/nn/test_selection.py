"""Layers that pick by value or index: ties, wrong indices, data-dependent shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from single_layer import build, floats, forward, gradient, normal, run

from cosdask.errors import NetError

# few different values, so that most draws hold ties
_rows = hnp.arrays(np.float32, (3, 4), elements=st.integers(-2, 2).map(float))


@given(x=_rows, top_k=st.integers(1, 4))
@settings(max_examples=40)
def test_argmax_orders_equal_values_by_the_higher_index_first(x: np.ndarray, top_k: int) -> None:
    """Caffe sorts (value, index) pairs downward (invariant 1)."""
    order = [sorted(range(4), key=lambda i: (row[i], i), reverse=True)[:top_k] for row in x]
    (top,) = run(build(f'type: "ArgMax" argmax_param {{ top_k: {top_k} out_max_val: true }}', x.shape), [x])
    assert top.shape == (3, 2, top_k)
    assert np.array_equal(top[:, 0], order)
    assert np.array_equal(top[:, 1], np.take_along_axis(x, np.array(order), axis=1))


def test_argmax_along_an_axis_gives_indices_or_values() -> None:
    """With axis the top holds one of the two, in the bottom's shape."""
    x = normal(0, 2, 5, 3)
    (index,) = run(build('type: "ArgMax" argmax_param { axis: 1 }', x.shape), [x])
    (value,) = run(build('type: "ArgMax" argmax_param { axis: -2 out_max_val: true }', x.shape), [x])
    assert np.array_equal(index[:, 0], x.argmax(axis=1))
    assert np.array_equal(value[:, 0], x.max(axis=1))


def test_argmax_refuses_more_than_there_is() -> None:
    """top_k is bounded by the values to choose from."""
    with pytest.raises(NetError, match=r"top_k \(=4\) must be from 1 to 3"):
        build('type: "ArgMax" argmax_param { top_k: 4 }', (2, 3))


def test_batch_reindex_sums_the_gradients_of_repeated_rows() -> None:
    """A row taken twice gets two gradients, one never taken gets none."""
    layer = build('type: "BatchReindex"', (3, 2), (4,))
    bottoms = [normal(0, 3, 2), floats(2, 0, 2, 2)]
    assert np.array_equal(run(layer, bottoms)[0], bottoms[0][[2, 0, 2, 2]])
    assert gradient(layer, bottoms).tolist() == [[1, 1], [0, 0], [3, 3]]


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_row_index_outside_of_the_batch_shows_as_nan(wrong: int) -> None:
    """Never another row's values: not the nearest one's, nor one counted from the end."""
    (top,) = run(build('type: "BatchReindex"', (3, 2), (2,)), [normal(0, 3, 2), floats(0, wrong)])
    assert np.isfinite(top[0]).all() and np.isnan(top[1]).all()


@pytest.mark.parametrize("wrong", [-2, 4])
def test_an_embedded_id_without_a_row_shows_as_nan(wrong: int) -> None:
    """The same for Embed."""
    layer = build('type: "Embed" embed_param { num_output: 2 input_dim: 4 }', (2,))
    (top,) = run(layer, [floats(3, wrong)], [normal(0, 4, 2), normal(1, 2)])
    assert np.isfinite(top[0]).all() and np.isnan(top[1]).all()


def test_embed_of_padding_is_a_row_of_zeros_that_learns_nothing() -> None:
    """-1 fills up CaffeOnSpark's caption vectors; real Caffe read beyond its table there."""
    layer = build('type: "Embed" embed_param { num_output: 2 input_dim: 4 bias_term: false }', (2,))
    table = jnp.asarray(normal(0, 4, 2))
    (top,) = run(layer, [floats(3, -1)], [table])
    assert top[0].tolist() == table[3].tolist() and not top[1].any()
    (by_row,) = jax.grad(lambda weights: forward(layer, [floats(3, -1)], weights)[0].sum())([table])
    assert by_row[:, 0].tolist() == [0, 0, 0, 1]


def test_embed_gathers_rows_and_sums_their_gradients() -> None:
    """An id seen twice gets both gradients; the bias, one for every id."""
    layer = build('type: "Embed" embed_param { num_output: 2 input_dim: 4 }', (3, 1))
    table, bias = jnp.asarray(normal(0, 4, 2)), jnp.asarray(normal(1, 2))
    ids = floats([1], [3], [1])
    np.testing.assert_allclose(run(layer, [ids], [table, bias])[0][:, 0], table[np.array([1, 3, 1])] + bias[None, :])
    by_row, by_bias = jax.grad(lambda weights: forward(layer, [ids], weights)[0].sum())([table, bias])
    assert by_row[:, 0].tolist() == [0, 2, 0, 1]
    assert by_bias.tolist() == [3, 3]


@given(selector=st.lists(st.sampled_from([0.0, 1.0, -2.0]), min_size=4, max_size=4))
@settings(max_examples=16)
def test_filter_keeps_the_rows_that_are_not_zero(selector: list[float]) -> None:
    """Any non-zero entry keeps its row, in every filtered bottom; none kept gives no rows."""
    layer = build('type: "Filter" top: "a" top: "b"', (4, 3), (4,), (4, 1))
    x, y, column = normal(0, 4, 3), normal(1, 4), floats(*selector)
    a, b = forward(layer, [x, y, column[:, None]])
    assert np.array_equal(a, x[column != 0]) and np.array_equal(b, y[column != 0])


def test_filter_inside_of_compiled_code_says_where_it_cannot_go() -> None:
    """No traceback of JAX's: the layer, the reason and the way out (invariant 8)."""
    layer = build('type: "Filter"', (4, 3), (4,))
    with pytest.raises(NetError, match=r'layer "layer" \(Filter\).*Net\.forward'):
        jax.jit(lambda x, s: layer.forward((), (x, s), None))(normal(0, 4, 3), floats(1, 0, 0, 1))


def test_filter_passes_gradients_to_kept_rows_only() -> None:
    """Without jit its gradient is Caffe's: zero for rows that were dropped."""
    layer = build('type: "Filter"', (3, 2), (3,))
    flow = jax.grad(lambda x: forward(layer, [x, floats(1, 0, 1)])[0].sum())(jnp.asarray(normal(0, 3, 2)))
    assert flow.tolist() == [[1, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("text", "shapes", "problem"),
    [
        ('type: "Filter"', [(4, 3), (4, 2)], "all its axes but the first must be 1"),
        ('type: "Filter"', [(3, 3), (4,)], "the selector's 4 rows"),
        ('type: "Filter" top: "a" top: "b"', [(4, 3), (4,)], "as many tops"),
        ('type: "BatchReindex"', [(4, 3), (4, 1)], "one axis"),
        ('type: "Embed" embed_param { num_output: 2 }', [(4,)], r"input_dim \(=0\)"),
    ],
)
def test_bottoms_that_do_not_fit_are_refused(text: str, shapes: list[tuple[int, ...]], problem: str) -> None:
    """The error names the layer and what does not fit (invariant 8)."""
    with pytest.raises(NetError, match=f'layer "layer".*{problem}'):
        build(text, *shapes)
