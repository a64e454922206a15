"""Caffe's transformer and the random numbers of rows."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from cosdask.data import Draw
from cosdask.data.transform import Transform, read_mean
from cosdask.errors import DataError, ProtoError, StorageError
from cosdask.proto import array_to_blob, caffe_pb2


def transform(text: str, phase: str = "TRAIN", folder: Path | None = None) -> Transform:
    """A transform from the inside of transform_param."""
    param = text_format.Parse(text, caffe_pb2.TransformationParameter())
    return Transform(param, phase, None if folder is None else str(folder))


@given(seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6), cut=st.integers(0, 40))
def test_random_numbers_hang_on_seed_epoch_and_row_alone(seed: int, epoch: int, cut: int) -> None:
    """Invariant 4: cutting the rows into batches otherwise changes nothing."""
    whole = Draw.of(seed, epoch, 0, 40)
    parts = [Draw.of(seed, epoch, 0, cut), Draw.of(seed, epoch, cut, 40)]
    for purpose in (0, 1):
        np.testing.assert_array_equal(whole.below(30, purpose), np.concatenate([p.below(30, purpose) for p in parts]))


def test_random_numbers_are_uniform_and_independent() -> None:
    """Over rows, epochs, seeds, purposes and streams the numbers look unrelated, and cover their range evenly."""
    rows = 60_000
    draws = [
        Draw.of(0, 0, 0, rows).below(10, 0),
        Draw.of(0, 0, 0, rows).below(10, 1),
        Draw.of(0, 1, 0, rows).below(10, 0),
        Draw.of(1, 0, 0, rows).below(10, 0),
        Draw.of(0, 0, 0, rows).fork(0).below(10, 0),
        Draw.of(0, 0, 0, rows).fork(1).below(10, 0),
    ]
    for draw in draws:
        counts = np.bincount(draw, minlength=10)
        assert np.abs(counts - rows / 10).max() < 5 * np.sqrt(rows * 0.09)
        assert abs(np.corrcoef(draw[:-1], draw[1:])[0, 1]) < 0.02
    for i in range(len(draws)):
        for j in range(i):
            assert abs(np.corrcoef(draws[i], draws[j])[0, 1]) < 0.02
    assert abs(Draw.of(5, 5, 0, rows).flips(2).mean() - 0.5) < 0.01


def test_crops_are_random_in_train_and_central_in_test() -> None:
    """TRAIN: every place occurs; TEST: (size - crop) // 2, for each row's own size."""
    sizes = np.full(2000, 7)
    train = transform("crop_size: 5").offsets(sizes, sizes + 1, Draw.of(0, 0, 0, 2000))
    assert {tuple(place) for place in train.tolist()} == {(down, right) for down in range(3) for right in range(4)}
    test = transform("crop_size: 5", "TEST").offsets(np.array([7, 8, 5]), np.array([6, 9, 5]), Draw.of(0, 0, 0, 3))
    assert test.tolist() == [[1, 0], [1, 2], [0, 0]]


def reference(
    image: np.ndarray, place: tuple[int, int], size: int, flip: bool, mean: np.ndarray, scale: float
) -> np.ndarray:
    """Caffe's rule pixel by pixel: the mean at the source pixel, the result at the mirrored place, then scale."""
    out = np.zeros((image.shape[0], size, size), np.float32)
    for c, y, x in np.ndindex(out.shape):
        source = (c, place[0] + y, place[1] + x)
        value = (np.float32(image[source]) - mean[source]) * np.float32(scale)
        out[c, y, size - 1 - x if flip else x] = value
    return out


@pytest.mark.parametrize("numbers", ["numpy", "jax"])
def test_mean_file_with_random_crops_and_mirror(numbers: str, tmp_path: Path) -> None:
    """The mean's pixels follow each row's crop and mirror, in NumPy and inside a compiled function."""
    rng = np.random.default_rng(1)
    mean = rng.normal(100, 30, (3, 9, 8)).astype(np.float32)
    blob = array_to_blob(mean[None], like_legacy=True)
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    change = transform('crop_size: 5 mirror: true scale: 0.25 mean_file: "mean.binaryproto"', "TRAIN", tmp_path)
    images = rng.integers(0, 256, (12, 3, 9, 8), dtype=np.uint8)
    draw = Draw.of(4, 0, 0, 12)
    offsets = change.offsets(np.full(12, 9), np.full(12, 8), draw)
    extras = change.extras("data", offsets, draw)
    assert set(extras) == {"data:mirror", "data:offset"}
    mirror, offset = extras["data:mirror"], extras["data:offset"]
    assert 0 < mirror.sum() < 12
    crops = np.stack([image[:, y : y + 5, x : x + 5] for image, (y, x) in zip(images, offsets, strict=True)])
    if numbers == "jax":
        found = np.asarray(jax.jit(lambda *arrays: change.finish(*arrays, xp=jnp))(crops, mirror, offset))
    else:
        found = change.finish(crops, mirror, offset)
    for i in range(12):
        wanted = reference(images[i], tuple(offsets[i]), 5, bool(mirror[i]), mean, 0.25)
        np.testing.assert_array_equal(found[i], wanted)


def test_mirror_is_random_in_both_phases_and_offsets_only_where_needed() -> None:
    """As in Caffe; a mean value needs no offsets, nor does a centre crop."""
    draw = Draw.of(0, 0, 0, 50)
    for phase in ("TRAIN", "TEST"):
        change = transform("mirror: true crop_size: 3 mean_value: 1", phase)
        extras = change.extras("data", change.offsets(np.full(50, 5), np.full(50, 5), draw), draw)
        assert list(extras) == ["data:mirror"]
        assert 5 < extras["data:mirror"].sum() < 45
    assert transform("scale: 2").extras("data", None, draw) == {}


def test_means_that_do_not_fit(tmp_path: Path) -> None:
    """A mean of another shape, a wrong number of mean values, a file that is missing or none: named at once."""
    (tmp_path / "mean").write_bytes(array_to_blob(np.zeros((3, 4, 4), np.float32)).SerializeToString())
    with pytest.raises(DataError, match=r"\(3, 4, 4\), the images \(3, 5, 5\)"):
        transform('mean_file: "mean"', folder=tmp_path).out_shape((3, 5, 5))
    with pytest.raises(DataError, match="2 mean_value for 3 channels"):
        transform("mean_value: 1 mean_value: 2").out_shape((3, 5, 5))
    with pytest.raises(StorageError, match="no such file"):
        transform('mean_file: "men"', folder=tmp_path).out_shape((3, 4, 4))
    (tmp_path / "text").write_text("not a blob")
    with pytest.raises((ProtoError, DataError), match="text"):
        read_mean(str(tmp_path / "text"))
    (tmp_path / "flat").write_bytes(array_to_blob(np.zeros(4, np.float32)).SerializeToString())
    with pytest.raises(DataError, match="mean image"):
        read_mean(str(tmp_path / "flat"))
