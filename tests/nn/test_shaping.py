"""Layers that move values: against NumPy over varied shapes, and what they refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from single_layer import build, normal, run

from cosdask.errors import NetError

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple)


@given(shape=shapes, data=st.data())
@settings(max_examples=25)
def test_pieces_of_slice_are_numpys(shape: tuple[int, ...], data: st.DataObject) -> None:
    """Pieces end at the slice points, along any axis, counted from the front or the end."""
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    inside = range(1, shape[axis])
    points = sorted(data.draw(st.sets(st.sampled_from(inside)) if inside else st.just(set())))
    tops = " ".join(f'top: "t{n}"' for n in range(len(points) + 1))
    fields = " ".join(f"slice_point: {point}" for point in points)
    layer = build(f'type: "Slice" {tops} slice_param {{ axis: {axis} {fields} }}', shape)
    x = normal(0, *shape)
    pieces = run(layer, [x])
    expected = np.split(x, points, axis=axis)
    assert [piece.shape for piece in pieces] == layer.top_shapes
    assert all(np.array_equal(piece, wanted) for piece, wanted in zip(pieces, expected, strict=True))


@given(shape=shapes, tiles=st.integers(1, 3), data=st.data())
@settings(max_examples=20)
def test_tile_repeats_whole_blobs_as_numpy_does(shape: tuple[int, ...], tiles: int, data: st.DataObject) -> None:
    """``a b`` becomes ``a b a b``, not ``a a b b``."""
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = normal(0, *shape)
    layer = build(f'type: "Tile" tile_param {{ axis: {axis} tiles: {tiles} }}', shape)
    repeats = [tiles if position == axis % len(shape) else 1 for position in range(len(shape))]
    assert np.array_equal(run(layer, [x])[0], np.tile(x, repeats))


@given(sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=5), data=st.data())
@settings(max_examples=25)
def test_crop_cuts_the_window_that_the_offsets_state(sizes: list[tuple[int, int]], data: st.DataObject) -> None:
    """Axes before ``axis`` keep their size, the others take the second bottom's, each from its own offset."""
    wanted, offsets = tuple(size for size, _ in sizes), [offset for _, offset in sizes]
    axis = data.draw(st.integers(0, len(sizes) - 1))
    shape = tuple(size + offset + 1 for size, offset in sizes)
    fields = " ".join(f"offset: {offset}" for offset in offsets[axis:])
    x = normal(0, *shape)
    window = tuple(
        slice(None) if position < axis else slice(offset, offset + size)
        for position, (size, offset) in enumerate(sizes)
    )
    layer = build(f'type: "Crop" crop_param {{ axis: {axis} {fields} }}', shape, wanted)
    assert np.array_equal(run(layer, [x, normal(1, *wanted)])[0], x[window])


def test_crop_takes_one_offset_for_all_axes() -> None:
    """A single offset counts for every cropped axis."""
    x = normal(0, 1, 1, 5, 6)
    layer = build('type: "Crop" crop_param { offset: 2 }', x.shape, (1, 1, 3, 3))
    assert np.array_equal(run(layer, [x, x[:, :, :3, :3]])[0], x[:, :, 2:5, 2:5])


@pytest.mark.parametrize(
    ("fields", "top"),
    [
        ("shape { dim: 0 dim: -1 }", (2, 60)),
        ("shape { dim: -1 dim: 0 }", (40, 3)),
        ("axis: 1 shape { dim: -1 }", (2, 60)),
        ("axis: 1 num_axes: 2 shape { dim: 6 dim: 2 }", (2, 6, 2, 5)),
        ("axis: 1 num_axes: 0 shape { dim: 1 dim: -1 }", (2, 1, 1, 3, 4, 5)),
        ("axis: -1 shape { dim: 1 dim: 1 }", (2, 3, 4, 5, 1, 1)),
        ("axis: -2 shape { dim: 1 dim: 5 }", (2, 3, 4, 1, 5)),
        ("axis: 4 shape { dim: 1 }", (2, 3, 4, 5, 1)),
    ],
)
def test_reshape_follows_caffes_rules_of_axis_and_dims(fields: str, top: tuple[int, ...]) -> None:
    """0 copies, -1 is worked out, axis -1 is behind the last axis, num_axes 0 inserts."""
    x = normal(0, 2, 3, 4, 5)
    (y,) = run(build(f'type: "Reshape" reshape_param {{ {fields} }}', x.shape), [x])
    assert y.shape == top
    assert np.array_equal(np.ravel(y), x.ravel())


@pytest.mark.parametrize(
    ("text", "shapes", "problem"),
    [
        ('type: "Reshape" reshape_param { shape { dim: 7 } }', [(2, 3)], "cannot reshape"),
        ('type: "Reshape" reshape_param { shape { dim: 4 dim: -1 } }', [(2, 3)], "cannot work out"),
        ('type: "Reshape" reshape_param { shape { dim: -1 dim: -1 } }', [(2, 3)], "only one dim"),
        ('type: "Reshape" reshape_param { axis: 1 shape { dim: 3 dim: 0 } }', [(2, 3)], "copies axis 2"),
        ('type: "Reshape" reshape_param { axis: 1 num_axes: 2 }', [(2, 3)], "beyond the bottom's 2 axes"),
        ('type: "Reshape" reshape_param { axis: 4 }', [(2, 3)], "axis"),
        ('type: "Slice" top: "a" top: "b" slice_param { axis: 1 }', [(2, 3)], "2 equal tops"),
        ('type: "Slice" top: "a" top: "b" slice_param { slice_point: 3 }', [(2, 3)], "must rise"),
        (
            'type: "Slice" top: "a" top: "b" slice_param { slice_point: 1 slice_point: 2 }',
            [(2, 3)],
            "need 1 slice_point",
        ),
        ('type: "Slice" slice_param { axis: 1 slice_dim: 1 }', [(2, 3)], "not both"),
        ('type: "Tile" tile_param { axis: 1 }', [(2, 3)], r"tiles \(=0\)"),
        ('type: "Tile" tile_param { axis: 2 tiles: 2 }', [(2, 3)], r"axis \(=2\)"),
        ('type: "Crop" crop_param { axis: 1 offset: 2 }', [(2, 3), (2, 2)], "beyond the bottom's 3"),
        ('type: "Crop" crop_param { axis: 0 offset: 0 offset: 0 offset: 0 }', [(2, 3), (2, 2)], "given 3 times"),
        ('type: "Crop" crop_param { axis: 1 }', [(2, 3), (2,)], "as many axes"),
    ],
)
def test_shapes_that_cannot_work_are_refused(text: str, shapes: list[tuple[int, ...]], problem: str) -> None:
    """The error names the layer and what does not fit (invariant 8)."""
    with pytest.raises(NetError, match=f'layer "layer".*{problem}'):
        build(text, *shapes)


def test_slice_reads_the_old_name_of_its_axis() -> None:
    """slice_dim is what old prototxts say for axis."""
    layer = build('type: "Slice" top: "a" top: "b" slice_param { slice_dim: 0 }', (4, 3))
    assert layer.top_shapes == [(2, 3), (2, 3)]
