"""read_binary, blob_to_array and array_to_blob: weights, states and means as Caffe stores them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cosdask.errors import ProtoError, StorageError
from cosdask.proto import array_to_blob, blob_to_array, caffe_pb2, parse_binary, read_binary


@pytest.fixture
def model(golden: Path) -> Path:
    return golden / "solvers" / "adam" / "start.caffemodel"


def test_a_caffemodel_of_real_caffe_gives_its_weights(model: Path) -> None:
    """Invariant 1: values and shapes are the ones in the file."""
    net = read_binary(model, caffe_pb2.NetParameter())
    blob = next(layer.blobs[0] for layer in net.layer if layer.blobs)
    array = blob_to_array(blob)
    assert array.dtype == np.float32
    assert array.shape == tuple(blob.shape.dim)
    np.testing.assert_array_equal(array.ravel(), np.fromiter(blob.data, np.float32))


def test_a_mean_file_of_real_caffe_is_four_dimensional(golden: Path) -> None:
    """Old blobs say num, channels, height and width."""
    blob = read_binary(golden / "data" / "raw_mean_file" / "mean.binaryproto", caffe_pb2.BlobProto())
    array = blob_to_array(blob)
    assert array.shape == (blob.num, blob.channels, blob.height, blob.width)
    assert array_to_blob(array, like_legacy=True) == blob


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0), elements=st.floats(width=32)))
def test_an_array_comes_back_bit_for_bit(array: np.ndarray) -> None:
    """Weights saved and loaded are the same numbers, NaN and -0 too."""
    blob = caffe_pb2.BlobProto.FromString(array_to_blob(array).SerializeToString())
    again = blob_to_array(blob)
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()
    if array.ndim <= 4:
        assert blob_to_array(array_to_blob(array, like_legacy=True)).tobytes() == array.tobytes()


def test_arrays_of_other_types_and_layouts() -> None:
    """What is stored is float32 in C order, whatever comes in; double precision in a file is rounded."""
    array = np.arange(6, dtype=np.float64).reshape(2, 3).T
    np.testing.assert_array_equal(blob_to_array(array_to_blob(array)), array.astype(np.float32))
    double = caffe_pb2.BlobProto(shape={"dim": [2]}, double_data=[0.1, 0.2])
    np.testing.assert_array_equal(blob_to_array(double), np.array([0.1, 0.2], np.float32))
    both = caffe_pb2.BlobProto(shape={"dim": [1]}, data=[1.0], diff=[2.0])
    assert blob_to_array(both, diff=True) == [2.0]


@pytest.mark.parametrize(
    "blob",
    [
        caffe_pb2.BlobProto(shape={"dim": [2, 3]}, data=[1.0] * 5),
        caffe_pb2.BlobProto(shape={"dim": [-1, -1]}, data=[1.0]),
        caffe_pb2.BlobProto(num=1, channels=2, data=[1.0]),
        caffe_pb2.BlobProto(shape={"dim": [2**40, 2**40]}),
        caffe_pb2.BlobProto(data=[1.0, 2.0]),
    ],
)
def test_a_blob_whose_shape_and_numbers_differ_is_refused(blob: caffe_pb2.BlobProto) -> None:
    """Invariant 10: sizes read from files are checked before anything is made of them."""
    with pytest.raises(ProtoError, match="numbers, and it holds"):
        blob_to_array(blob)


def test_an_old_blob_has_four_axes_at_most() -> None:
    """There is no field for a fifth."""
    with pytest.raises(ProtoError, match="4 axes"):
        array_to_blob(np.zeros((1, 1, 1, 1, 1), np.float32), like_legacy=True)


def test_a_blob_of_100_megabytes_is_fast() -> None:
    """Numbers move as one block; one by one both ways would take 10 seconds and more."""
    array = np.ones(25_000_000, np.float32)
    start = time.perf_counter()
    assert blob_to_array(array_to_blob(array)).nbytes == array.nbytes
    assert time.perf_counter() - start < 4


def test_fields_of_newer_writers_are_kept(model: Path) -> None:
    """A file with fields that this version does not know is read, and nothing of it is lost."""
    newer = model.read_bytes() + b"\xc2\x3e\x03new"  # field 1000, three bytes
    net = parse_binary(newer, caffe_pb2.NetParameter())
    assert net.layer
    assert b"\xc2\x3e\x03new" in net.SerializeToString()


@given(st.data())
def test_a_cut_file_is_read_or_refused_with_its_name(data: st.DataObject) -> None:
    """Invariant 10: a file cut anywhere gives a message (cut between fields) or a ProtoError that names it."""
    layer = caffe_pb2.LayerParameter(name="c", blobs=[array_to_blob(np.ones((3, 3), np.float32))])
    whole = caffe_pb2.NetParameter(name="net", layer=[layer] * 3).SerializeToString()
    at = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(0, 255))
    for damaged in (whole[:at], whole[:at] + bytes([flip]) + whole[at + 1 :]):
        try:
            parse_binary(damaged, caffe_pb2.NetParameter(), "cut.caffemodel")
        except ProtoError as error:
            assert str(error).startswith("cut.caffemodel: not a binary NetParameter: ")


def test_a_file_without_a_required_field_is_refused() -> None:
    """Caffe refuses it too, and it could not be written again."""
    net = caffe_pb2.NetParameter(layer=[{"clip_param": {"min": 0}}])
    with pytest.raises(ProtoError, match=r"m: layer\[0\]\.clip_param\.max is missing"):
        parse_binary(net.SerializePartialToString(), caffe_pb2.NetParameter(), "m")


def test_a_cut_file_says_where(tmp_path: Path, model: Path) -> None:
    """The outermost field that goes beyond the end is named, with its place."""
    short = tmp_path / "short.caffemodel"
    short.write_bytes(model.read_bytes()[:-3])
    with pytest.raises(ProtoError, match=r"short\.caffemodel: .*goes 3 bytes beyond the end.*cut short") as caught:
        read_binary(short, caffe_pb2.NetParameter())
    assert caught.value.where["path"] == str(short)


@pytest.mark.parametrize(
    ("before", "at"), [(b"\xc1\x3e" + bytes(8), 10), (b"\xc5\x3e" + bytes(4), 6), (b"\xc0\x3e\x05", 3)]
)
def test_the_place_of_the_damage_counts_fields_of_every_size(before: bytes, at: int) -> None:
    """Fields before the damaged one, known or not, are stepped over as the wire format says."""
    with pytest.raises(ProtoError, match=f"field 1, from byte {at}, goes 7 bytes beyond"):
        parse_binary(before + b"\x0a\x09ab", caffe_pb2.NetParameter())


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b'# LeNet\nname: "LeNet"\nlayer { name: "a" }', "text file"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x1f\x8b\x08" + b"\0" * 20, "gzip"),
        (b"\xff" * 40, "damaged at byte 0 of 40"),
    ],
)
def test_another_kind_of_file_is_recognized(tmp_path: Path, data: bytes, sentence: str) -> None:
    """What people hand in by mistake is called by its name."""
    path = tmp_path / "model.caffemodel"
    path.write_bytes(data)
    with pytest.raises(ProtoError, match=sentence):
        read_binary(path, caffe_pb2.NetParameter())


def test_another_kind_of_message_is_refused(model: Path) -> None:
    """A caffemodel is no mean file, although protobuf alone would take it for an empty one."""
    with pytest.raises(ProtoError, match="another kind of message"):
        read_binary(model, caffe_pb2.BlobProto())


def test_size_limit_and_missing_file(tmp_path: Path, model: Path) -> None:
    """A file too large is refused before it is read; a missing one is storage's error."""
    with pytest.raises(ProtoError, match=r"more than the 10 accepted"):
        read_binary(model, caffe_pb2.NetParameter(), limit=10)
    with pytest.raises(StorageError):
        read_binary(tmp_path / "none.caffemodel", caffe_pb2.NetParameter())
