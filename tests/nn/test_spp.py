"""Spatial pyramid pooling: bins, order of the features, too small images."""

import numpy as np
import pytest
from single_layer import build, normal, run

from cosdask.errors import NetError


def test_features_come_level_by_level_each_in_caffes_order() -> None:
    """1x1, then 2x2 bins; within a level channel by channel, then row by row."""
    x = normal(0, 2, 3, 4, 6)
    (top,) = run(build('type: "SPP" spp_param { pyramid_height: 2 }', x.shape), [x])
    bins = x.reshape(2, 3, 2, 2, 2, 3).max(axis=(3, 5))
    assert np.array_equal(top, np.concatenate([x.max(axis=(2, 3)), bins.reshape(2, 12)], axis=1))


def test_the_number_of_features_does_not_depend_on_the_images_size() -> None:
    """What the layer is for."""
    text = 'type: "SPP" spp_param { pyramid_height: 3 pool: AVE }'
    assert [build(text, (1, 3, *size)).top_shapes for size in [(8, 8), (9, 11), (30, 17)]] == [[(1, 63)]] * 3


@pytest.mark.parametrize(
    ("text", "shape", "problem"),
    [
        ('type: "SPP" spp_param { pyramid_height: 3 }', (1, 1, 5, 8), "too small for 4 x 4 bins"),
        ('type: "SPP"', (1, 1, 5, 8), r"pyramid_height \(=0\)"),
        ('type: "SPP" spp_param { pyramid_height: 99 }', (1, 1, 5, 8), r"pyramid_height \(=99\)"),
        ('type: "SPP" spp_param { pyramid_height: 1 }', (1, 1, 5), r"\(N, C, H, W\)"),
    ],
)
def test_what_cannot_be_pooled_is_refused(text: str, shape: tuple[int, ...], problem: str) -> None:
    """The error names the layer and what it needs (invariant 8)."""
    with pytest.raises(NetError, match=f'layer "layer".*{problem}'):
        build(text, shape)
