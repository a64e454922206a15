"""Convolution and deconvolution: every fast form equals the plain one, and fields that cannot work say so."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from single_layer import build, forward, normal, run

from cosdask.device import compile_function
from cosdask.errors import NetError
from cosdask.nn.layer import Layer
from cosdask.nn.layers.convolution import HWIO


def reference(layer: Layer, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A sum over places and channels in NumPy, float64, from the fields alone."""
    param = layer.param.convolution_param
    stride, pad, dilation = param.stride[0], param.pad[0], param.dilation[0]
    (n, channels, _, _), (outputs, per_group, rows, columns) = x.shape, weight.shape
    _, _, high, wide = layer.top_shapes[0]
    room = [(0, 0), (0, 0), (pad, pad + 9), (pad, pad + 9)]  # more than any window can stick out
    padded = np.pad(x.astype(np.float64), room)
    top = np.zeros((n, outputs, high, wide))
    for out in range(outputs):
        first = out // (outputs // param.group) * per_group
        for row in range(rows):
            for column in range(columns):
                r, c = row * dilation, column * dilation
                window = padded[
                    :, first : first + per_group, r : r + high * stride : stride, c : c + wide * stride : stride
                ]
                top[:, out] += np.einsum("nchw,c->nhw", window, weight[out, :, row, column])
    assert channels == per_group * param.group
    return top


@given(
    group=st.sampled_from([(1, 3, 2), (2, 4, 6), (3, 3, 3), (4, 4, 8), (2, 2, 2), (1, 1, 3)]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    pad=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
@settings(max_examples=25)
def test_any_geometry_equals_the_plain_sum(
    group: tuple[int, int, int], kernel: int, stride: int, pad: int, dilation: int
) -> None:
    """Products for 1x1, groups one by one, and depthwise sums all give the definition's numbers (invariant 1)."""
    groups, channels, outputs = group
    fields = (
        f"num_output: {outputs} group: {groups} kernel_size: {kernel} stride: {stride} pad: {pad} dilation: {dilation}"
    )
    x, weight = normal(0, 2, channels, 7, 8), normal(1, outputs, channels // groups, kernel, kernel)
    layer = build(f'type: "Convolution" convolution_param {{ {fields} bias_term: false }}', x.shape)
    top = run(layer, [x], [weight.transpose(HWIO)])[0]
    np.testing.assert_allclose(top, reference(layer, x, weight), rtol=1e-4, atol=1e-5)


@given(
    group=st.sampled_from([(1, 3, 2), (2, 4, 6), (4, 4, 4)]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    pad=st.integers(0, 1),
    dilation=st.integers(1, 2),
)
@settings(max_examples=15)
def test_deconvolution_is_the_transpose_of_convolution(
    group: tuple[int, int, int], kernel: int, stride: int, pad: int, dilation: int
) -> None:
    """<conv(x), y> = <x, deconv(y)> for equal weights, which is what makes the one the other's gradient."""
    groups, inner, outer = group
    shared = f"group: {groups} kernel_size: {kernel} stride: {stride} pad: {pad} dilation: {dilation} bias_term: false"
    y = normal(0, 2, outer, 4, 5)
    up = build(f'type: "Deconvolution" convolution_param {{ num_output: {inner} {shared} }}', y.shape)
    down = build(f'type: "Convolution" convolution_param {{ num_output: {outer} {shared} }}', up.top_shapes[0])
    assert down.top_shapes[0] == y.shape
    assert down.weights[0].shape == up.weights[0].shape
    x, weight = normal(1, *up.top_shapes[0]), normal(2, *up.weights[0].shape).transpose(HWIO)
    left = np.vdot(run(down, [x], [weight])[0], y)
    right = np.vdot(x, run(up, [y], [weight])[0])
    np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-3)


def test_many_groups_give_the_numbers_of_few() -> None:
    """Beyond the number of groups that are taken one by one, XLA's grouped convolution takes over."""
    x, weight = normal(0, 1, 160, 3, 3), normal(1, 80, 2, 3, 3)
    text = 'type: "Convolution" convolution_param { num_output: 80 group: 80 kernel_size: 3 pad: 1 bias_term: false }'
    top = run(build(text, x.shape), [x], [weight.transpose(HWIO)])[0]
    plain = lax.conv_general_dilated(x, weight, (1, 1), ((1, 1), (1, 1)), feature_group_count=80)
    np.testing.assert_allclose(top, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride"),
    [
        ((1, 5, 15, 16), 1, 1),
        ((2, 5, 16, 16), 1, 1),
        ((2, 5, 50, 50), 1, 1),
        ((2, 5, 9, 8), 3, 1),
        ((4, 300, 30, 30), 3, 1),
        ((2, 3, 30, 29), 7, 2),
        ((2, 1, 100, 100), 5, 1),
    ],
)
def test_each_form_gives_the_gradients_of_the_plain_one(shape: tuple[int, ...], kernel: int, stride: int) -> None:
    """Which product or convolution computes it goes by the shape; the numbers do not (invariant 1)."""
    x, weight = normal(0, *shape), normal(1, 6, shape[1], kernel, kernel)
    fields = f"num_output: 6 kernel_size: {kernel} pad: {kernel // 2} stride: {stride} bias_term: false"
    layer = build(f'type: "Convolution" convolution_param {{ {fields} }}', shape)
    change = normal(2, *layer.top_shapes[0])

    def ours(x: jax.Array, weight: jax.Array) -> jax.Array:
        return (forward(layer, [x], [jnp.transpose(weight, HWIO)])[0] * change).sum()

    def plain(x: jax.Array, weight: jax.Array) -> jax.Array:
        pads = ((kernel // 2, kernel // 2),) * 2
        return (lax.conv_general_dilated(x, weight, (stride, stride), pads) * change).sum()

    found, wanted = (compile_function(jax.value_and_grad(f, (0, 1)))(x, weight) for f in (ours, plain))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * float(jnp.abs(other).max()))


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_bottoms_gradient_costs_nothing_where_nobody_asks(kernel: int) -> None:
    """A net's first convolution computes no gradient of the data: the compiled program has one convolution less."""
    x = jnp.asarray(normal(0, 2, 6, 6, 8))
    text = f'type: "Convolution" convolution_param {{ num_output: 8 kernel_size: {kernel} }}'
    layer = build(text, (2, 8, 6, 6))
    weights = [jnp.zeros(w.shape if w.axes is None else tuple(w.shape[a] for a in w.axes)) for w in layer.weights]

    def total(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        return jnp.square(layer.forward(weights, [x], None)[0]).sum()

    def flops(gradient: object) -> float:
        return float(compile_function(gradient).lower(weights, x).compile().cost_analysis()["flops"])  # type: ignore[arg-type]

    def of_weights_alone(weights: list[jax.Array], x: jax.Array) -> object:
        return jax.grad(total, (0, 1))(weights, x)[0]

    assert flops(of_weights_alone) < 0.8 * flops(jax.grad(total, (0, 1)))


def test_a_window_that_sticks_out_by_less_than_a_stride_counts() -> None:
    """Caffe's division rounds towards zero: size 2, kernel 3, stride 2 still gives one window."""
    layer = build('type: "Convolution" convolution_param { num_output: 1 kernel_size: 3 stride: 2 }', (1, 1, 2, 2))
    assert layer.top_shapes == [(1, 1, 1, 1)]


def test_the_bottoms_dtype_is_kept() -> None:
    """bfloat16 in, bfloat16 out."""
    layer = build('type: "Convolution" convolution_param { num_output: 2 kernel_size: 1 }', (1, 2, 3, 3))
    weights = [jnp.ones((1, 1, 2, 2), jnp.bfloat16), jnp.ones(2, jnp.bfloat16)]
    assert layer.forward(weights, [jnp.ones((1, 3, 3, 2), jnp.bfloat16)], None)[0].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("kernel_size: 3", "num_output must be given"),
        ("num_output: 4", "kernel_size is given 0 times"),
        ("num_output: 4 kernel_size: 3 kernel_size: 3 kernel_size: 3", "kernel_size is given 3 times"),
        ("num_output: 4 kernel_size: 3 kernel_h: 3 kernel_w: 3", "not both"),
        ("num_output: 4 kernel_h: 3", "must be 1 or more"),
        ("num_output: 4 kernel_size: 3 stride: 0", "must be 1 or more"),
        ("num_output: 4 kernel_size: 3 group: 0", "group"),
        ("num_output: 3 kernel_size: 3 group: 2", "must divide"),
        ("num_output: 4 kernel_size: 9", "make the kernel or dilation smaller"),
        ("num_output: 4 kernel_size: 3 axis: 4", "axis"),
    ],
)
def test_fields_that_cannot_work_name_the_layer_and_the_field(fields: str, said: str) -> None:
    """Errors say which layer, which field and what to do (invariant 8)."""
    with pytest.raises(NetError, match=said) as error:
        build(f'type: "Convolution" convolution_param {{ {fields} }}', (1, 4, 5, 5))
    assert error.value.where["layer"] == "layer"


def test_bottoms_and_tops_must_pair_up() -> None:
    """With several bottoms each has its own top, and all have one shape."""
    fields = "convolution_param { num_output: 4 kernel_size: 1 }"
    with pytest.raises(NetError, match="as many tops as bottoms"):
        build(f'type: "Convolution" {fields}', (1, 4, 5, 5), (1, 4, 5, 5))
    with pytest.raises(NetError, match="must be equal"):
        build(f'type: "Convolution" top: "a" top: "b" {fields}', (1, 4, 5, 5), (1, 4, 5, 6))
