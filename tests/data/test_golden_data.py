"""Invariant 1: batches equal real Caffe's data layers'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosdask.data import Feed, RowPlan, get_source

CASES = (
    "float_data",
    "hdf5_two_files",
    "image_list",
    "png_color",
    "png_force_color",
    "png_force_gray",
    "png_gray",
    "raw_crop_odd",
    "raw_mean3_crop_even",
    "raw_mean_file",
    "raw_mean_file_crop",
    "raw_plain",
    "raw_scale_mean1",
)


def expected(folder: Path) -> list[dict[str, np.ndarray]]:
    """Caffe's batches in order."""
    with np.load(folder / "batches.npz") as file:
        count = 1 + max(int(name.split("/")[1]) for name in file)
        tops = sorted({name.split("/")[0] for name in file})
        return [{top: file[f"{top}/{number}"] for top in tops} for number in range(count)]


@pytest.mark.parametrize("case", CASES)
def test_batches_equal_caffes(case: str, golden: Path) -> None:
    """Byte for byte, over several batches that wrap round the end of the rows."""
    folder = golden / "data" / case
    source = get_source(folder / "net.prototxt", phase="TEST")
    for wanted, found in zip(expected(folder), source.batches(), strict=False):
        assert set(found) == set(wanted)
        for top, array in wanted.items():
            assert found[top].dtype == array.dtype
            np.testing.assert_array_equal(found[top], array)
            assert source.tops[top] == array.shape


@pytest.mark.parametrize("case", CASES)
def test_the_feed_and_the_compiled_half_give_the_same(case: str, golden: Path) -> None:
    """Raw batches finished by JAX inside a compiled function equal Caffe's too, within float32 rounding."""
    import jax
    import jax.numpy as jnp

    folder = golden / "data" / case
    source = get_source(folder / "net.prototxt", phase="TEST")
    finish = jax.jit(lambda raw: source.finish(raw, xp=jnp))
    with Feed(source, RowPlan(source.rows, 1), 0, source.batch_size) as feed:
        for wanted, raw in zip(expected(folder), feed, strict=False):
            found = finish(raw)
            for top, array in wanted.items():
                assert found[top].dtype == np.float32
                np.testing.assert_allclose(np.asarray(found[top]), array, rtol=1e-6, atol=1e-5)


def test_dummy_data_is_caffes(golden: Path) -> None:
    """The one case that has no rows: a net makes it by itself."""
    import cosdask

    folder = golden / "data" / "dummy_constant"
    (wanted,) = expected(folder)
    found = cosdask.Net(folder / "net.prototxt", phase="TEST").forward({}, list(wanted))
    for top, array in wanted.items():
        assert found[top].dtype == array.dtype
        np.testing.assert_array_equal(found[top], array)


def test_every_recorded_case_is_compared(golden: Path) -> None:
    """14 of 14."""
    assert sorted([*CASES, "dummy_constant"]) == sorted(path.name for path in (golden / "data").iterdir())
