"""Elementwise layers where a plain formula and Caffe part: bounds, overflow, layouts, refused fields."""

import jax.numpy as jnp
import numpy as np
import pytest
from single_layer import build, floats, gradient, normal, run

from cosdask.errors import NetError


def test_clip_passes_the_gradient_at_both_bounds() -> None:
    """Caffe's rule (invariant 1): min <= x <= max, where a plain clip gives one half."""
    layer = build('type: "Clip" clip_param { min: -1 max: 2 }', (5,))
    x = floats(-3, -1, 0, 2, 3)
    assert run(layer, [x])[0].tolist() == [-1, -1, 0, 2, 2]
    assert gradient(layer, [x]).tolist() == [0, 1, 1, 1, 0]


def test_elu_takes_alpha_as_its_slope_at_zero() -> None:
    """Caffe's gradient where x is 0 is that of the exponential branch."""
    assert gradient(build('type: "ELU" elu_param { alpha: 3 }', (1,)), [floats(0)]).tolist() == [3]


@pytest.mark.parametrize("kind", ["BNLL", "ELU", "Swish"])
def test_large_values_neither_overflow_nor_spoil_the_gradient(kind: str) -> None:
    """exp(200) is no float32; value and gradient must stay finite on both sides."""
    layer, x = build(f'type: "{kind}"', (2,)), floats(-200, 200)
    assert np.isfinite(run(layer, [x])[0]).all()
    np.testing.assert_allclose(gradient(layer, [x]), [0, 1], atol=1e-6)


def test_absolute_value_has_no_gradient_at_zero() -> None:
    """Caffe multiplies by the sign, which is 0 there."""
    assert gradient(build('type: "AbsVal"', (3,)), [floats(-2, 0, 2)]).tolist() == [-1, 0, 1]


def test_prelu_scales_zero_like_negative_values() -> None:
    """Caffe's gradient at 0 is the slope."""
    layer = build('type: "PReLU" prelu_param { channel_shared: true }', (1, 3))
    assert gradient(layer, [floats([-1, 0, 1])], weights=[floats(0.5)[0]]).tolist() == [[0.5, 0.5, 1]]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 2, 2)])
def test_prelu_slopes_belong_to_axis_1_for_every_rank(shape: tuple[int, ...]) -> None:
    """Channels are axis 1 of Caffe's shape, in whichever layout the layer runs."""
    x, slope = normal(0, *shape), floats(0.1, 0.2, 0.3)
    expected = np.where(x > 0, x, x * slope.reshape((1, 3) + (1,) * (len(shape) - 2)))
    np.testing.assert_allclose(run(build('type: "PReLU"', shape), [x], [slope])[0], expected, rtol=1e-6)


def test_prelu_starts_at_a_quarter() -> None:
    """Caffe's default filler for the slopes."""
    (weight,) = build('type: "PReLU"', (2, 3)).weights
    assert weight.filler is not None and (weight.filler.type, weight.filler.value) == ("constant", 0.25)


def test_log_of_an_exp_with_the_same_fields_gives_the_values_back() -> None:
    """Exp and Log read base, scale and shift as each other's inverse where scale is 1 and shift is 0."""
    x = normal(1, 20)
    y = run(build('type: "Exp" exp_param { base: 3 }', x.shape), [x])[0]
    np.testing.assert_allclose(run(build('type: "Log" log_param { base: 3 }', x.shape), [y])[0], x, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('type: "Exp" exp_param { base: 0 }', r"base \(=0\)"),
        ('type: "Exp" exp_param { base: 10 shift: 1000 }', "too large"),
        ('type: "Log" log_param { base: -2 }', r"base \(=-2\)"),
        ('type: "Log" log_param { base: 1 }', "must not be 1"),
        ('type: "Clip"', "both min and max"),
        ('type: "Clip" clip_param { min: 2 max: 1 }', "must not be above"),
        ('type: "PReLU"', "2 or more axes"),
    ],
)
def test_fields_that_cannot_work_are_refused_by_name(text: str, problem: str) -> None:
    """The error names the layer and the field (invariant 8)."""
    with pytest.raises(NetError, match=f'layer "layer".*{problem}'):
        build(text, (4,))


@pytest.mark.parametrize("kind", ["AbsVal", "BNLL", "ELU", "Exp", "Swish", "Threshold"])
def test_the_dtype_of_the_bottom_is_kept(kind: str) -> None:
    """A bfloat16 net stays bfloat16."""
    x = jnp.asarray(normal(2, 6)).astype(jnp.bfloat16)
    assert run(build(f'type: "{kind}"', (6,)), [x])[0].dtype == jnp.bfloat16
