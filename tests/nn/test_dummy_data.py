"""DummyData and Parameter: tops from nothing."""

import jax
import numpy as np
import pytest
from single_layer import build, forward, normal, run

from cosdask.errors import NetError


def test_constants_need_no_random_numbers() -> None:
    """Neither does a top without filler, which is zero."""
    layer = build('type: "DummyData" dummy_data_param { shape { dim: 2 dim: 3 } data_filler { value: 5 } }')
    assert not layer.random
    assert np.array_equal(run(layer, [])[0], np.full((2, 3), 5))
    assert not run(build('type: "DummyData" dummy_data_param { shape { dim: 2 } }'), [])[0].any()


def test_random_fillers_follow_the_key() -> None:
    """The same key gives the same values; another key, or another top, gives others."""
    fields = 'shape { dim: 1000 } data_filler { type: "gaussian" mean: 3 std: 2 }'
    layer = build(f'type: "DummyData" top: "a" top: "b" dummy_data_param {{ {fields} }}')
    assert layer.random
    a, b = run(layer, [], rng=jax.random.key(0))
    again, _ = run(layer, [], rng=jax.random.key(0))
    other, _ = run(layer, [], rng=jax.random.key(1))
    assert np.array_equal(a, again)
    assert not np.array_equal(a, b) and not np.array_equal(a, other)
    assert np.mean(a) == pytest.approx(3, abs=0.3) and np.std(a) == pytest.approx(2, rel=0.1)


def test_shapes_and_fillers_are_given_once_or_for_each_top() -> None:
    """The old num, channels, height and width too, each on its own."""
    fields = "num: 2 num: 4 channels: 3 height: 1 width: 1 data_filler { value: 1 } data_filler { value: 2 }"
    layer = build(f'type: "DummyData" top: "a" top: "b" dummy_data_param {{ {fields} }}')
    a, b = run(layer, [])
    assert (a.shape, b.shape) == ((2, 3, 1, 1), (4, 3, 1, 1))
    assert (a == 1).all() and (b == 2).all()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("", "num is given 0 times"),
        ("shape { dim: 2 } num: 2", "not both"),
        ("shape { dim: 2 } shape { dim: 2 } shape { dim: 2 }", "shape is given 3 times"),
        ("shape { dim: 0 }", "1 or more"),
        ('shape { dim: 2 } data_filler { type: "gausian" }', 'Did you mean "gaussian"'),
        ('shape { dim: 2 } data_filler { type: "bilinear" }', "bilinear filler needs"),
    ],
)
def test_fields_that_cannot_work_are_refused(fields: str, problem: str) -> None:
    """At the start, with the layer's name, not at the first batch (invariant 8)."""
    with pytest.raises(NetError, match=f'layer "layer".*{problem}'):
        build(f'type: "DummyData" top: "a" top: "b" dummy_data_param {{ {fields} }}')


def test_parameter_gives_its_weight_and_takes_its_gradient() -> None:
    """The top is the weight itself, so the weight's gradient is the top's."""
    layer = build('type: "Parameter" parameter_param { shape { dim: 2 dim: 3 } }')
    value = normal(0, 2, 3)
    assert np.array_equal(run(layer, [], [value])[0], value)
    slope = jax.grad(lambda weights: (forward(layer, [], weights)[0] * value).sum())([jax.numpy.ones((2, 3))])
    assert np.array_equal(slope[0], value)
