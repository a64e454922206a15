"""Reduction, MVN and Im2col: formulas over varied shapes, and the points where gradients are Caffe's own."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from single_layer import build, floats, gradient, normal, run

from cosdask.errors import NetError

_FORMULAS = {
    "SUM": lambda rows: rows.sum(axis=1),
    "ASUM": lambda rows: np.abs(rows).sum(axis=1),
    "SUMSQ": lambda rows: (rows**2).sum(axis=1),
    "MEAN": lambda rows: rows.mean(axis=1),
}


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    operation=st.sampled_from(sorted(_FORMULAS)),
    data=st.data(),
)
@settings(max_examples=25)
def test_reduction_takes_all_axes_from_its_axis_on(shape: tuple[int, ...], operation: str, data: st.DataObject) -> None:
    """The top's shape is what is left, down to a scalar."""
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = normal(0, *shape)
    layer = build(f'type: "Reduction" reduction_param {{ operation: {operation} axis: {axis} coeff: -2 }}', shape)
    left = shape[: axis % len(shape)]
    (top,) = run(layer, [x])
    assert top.shape == left == layer.top_shapes[0]
    rows = x.reshape(int(np.prod(left)), -1)
    np.testing.assert_allclose(top, -2 * _FORMULAS[operation](rows).reshape(left), rtol=1e-4, atol=1e-5)


def test_the_sum_of_absolute_values_has_no_gradient_at_zero() -> None:
    """Caffe multiplies by the sign, which is 0 there."""
    layer = build('type: "Reduction" reduction_param { operation: ASUM }', (3,))
    assert gradient(layer, [floats(-2, 0, 2)]).tolist() == [-1, 0, 1]


@pytest.mark.parametrize(("fields", "axes"), [("", (2, 3)), ("across_channels: true", (1, 2, 3))])
def test_mvn_gives_mean_0_and_variance_1(fields: str, axes: tuple[int, ...]) -> None:
    """Over each channel of a sample, or over each sample."""
    x = 3 * normal(0, 2, 3, 4, 5) + 7
    (top,) = run(build(f'type: "MVN" mvn_param {{ {fields} }}', x.shape), [x])
    np.testing.assert_allclose(np.mean(top, axis=axes), 0, atol=1e-5)
    np.testing.assert_allclose(np.var(top, axis=axes), 1, rtol=1e-4)


def test_mvn_of_a_constant_image_is_zero_with_a_finite_gradient() -> None:
    """A variance of 0 must not make NaN: a black image is an ordinary input."""
    x, layer = np.full((1, 1, 2, 2), 5, np.float32), build('type: "MVN"', (1, 1, 2, 2))
    assert not run(layer, [x])[0].any()
    assert np.isfinite(gradient(layer, [x])).all()


@given(
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    pad=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
@settings(max_examples=20)
def test_im2col_times_a_filter_is_a_convolution(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], pad: int, dilation: int
) -> None:
    """What the layer is for: the columns' product with a flat filter bank."""
    fields = (
        f"kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride: {stride[0]} stride: {stride[1]} "
        f"pad: {pad} dilation: {dilation}"
    )
    text = f'type: "Im2col" convolution_param {{ {fields} }}'
    x, filters = normal(0, 2, 3, *size), normal(1, 4, 3, *kernel)
    if any(dilation * (k - 1) + 1 > s + 2 * pad for k, s in zip(kernel, size, strict=True)):
        with pytest.raises(NetError, match="larger than the padded bottom"):
            build(text, x.shape)
        return
    (columns,) = run(build(text, x.shape), [x])
    product = np.einsum("ok,nkhw->nohw", filters.reshape(4, -1), columns)
    expected = lax.conv_general_dilated(
        jnp.asarray(x), jnp.asarray(filters), stride, [(pad, pad)] * 2, rhs_dilation=(dilation, dilation)
    )
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("", "needs kernel_size"),
        ("kernel_size: 0", "1 or more"),
        ("kernel_size: 3 kernel_h: 3", "cannot be mixed"),
        ("kernel_size: 3 stride: 1 stride: 1 stride: 1", "given 3 times"),
        ("kernel_size: 3 axis: 3", "axes behind its channel axis"),
        ("kernel_size: 3 stride: 0", "stride"),
    ],
)
def test_kernels_that_cannot_work_are_refused(fields: str, problem: str) -> None:
    """The error names the layer and the field (invariant 8)."""
    with pytest.raises(NetError, match=f'layer "layer".*{problem}'):
        build(f'type: "Im2col" convolution_param {{ {fields} }}', (1, 2, 5, 5))
