"""Datums read where they lie: the same as protobuf finds, whatever the bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from cosdask.data import open_source
from cosdask.data.buffers import Buffers
from cosdask.data.datum import DatumReader
from cosdask.errors import DataError
from cosdask.proto import caffe_pb2

SIZE = st.one_of(st.integers(0, 300), st.integers(-(2**31), 2**31 - 1))
DATUMS = st.builds(
    lambda fields: caffe_pb2.Datum(**fields).SerializeToString(),
    st.fixed_dictionaries(
        {},
        optional={
            "channels": SIZE,
            "height": SIZE,
            "width": SIZE,
            "data": st.binary(max_size=300),
            "label": SIZE,
            "float_data": st.lists(st.floats(width=32, allow_nan=False), max_size=4),
            "encoded": st.booleans(),
        },
    ),
)


def assert_as_protobuf(reader: DatumReader, value: bytes) -> None:
    """The reader finds what protobuf finds, and refuses what it refuses."""
    try:
        datum = caffe_pb2.Datum.FromString(value)
    except DecodeError:
        with pytest.raises(DataError, match="not a Datum"):
            reader.read(memoryview(value))
        return
    found = reader.read(memoryview(value))
    assert found.size == (datum.channels, datum.height, datum.width)
    assert (found.label, found.encoded, bytes(found.data)) == (datum.label, datum.encoded, datum.data)
    floats = [] if found.floats is None else found.floats.tolist()
    assert floats == list(datum.float_data)


@given(values=st.lists(DATUMS, min_size=1, max_size=4))
def test_datums_are_read_as_protobuf_reads_them(values: list[bytes]) -> None:
    """One after the other through one reader, which remembers how the last one began."""
    reader = DatumReader()
    for value in [*values, *values]:
        assert_as_protobuf(reader, value)


@given(parts=st.lists(DATUMS, max_size=3), cut=st.integers(0, 40), more=st.binary(max_size=12), first=DATUMS)
def test_odd_bytes_are_left_to_protobuf(parts: list[bytes], cut: int, more: bytes, first: bytes) -> None:
    """Fields again and out of order, unknown fields, cut short, noise behind: never another answer than protobuf's."""
    reader = DatumReader()
    assert_as_protobuf(reader, first)
    value = b"".join(parts) + more
    assert_as_protobuf(reader, value)
    assert_as_protobuf(reader, value[: max(0, len(value) - cut)])


def test_what_tools_write_is_read_in_place() -> None:
    """Raw and encoded Datums need no protobuf: their pixels are a view; a lying length is not believed."""
    raw = caffe_pb2.Datum(channels=3, height=8, width=9, data=bytes(216), label=999).SerializeToString()
    encoded = caffe_pb2.Datum(data=b"\xff\xd8" * 9000, label=3, encoded=True).SerializeToString()
    for value in (raw, encoded, raw):
        found = DatumReader().scan(memoryview(value))
        assert found is not None and isinstance(found.data, memoryview) and found.data.obj is value
    assert DatumReader().scan(raw[:-4]) is None
    with pytest.raises(DataError):
        DatumReader().read(raw[:100])


def test_memory_of_batches_is_used_again_only_when_nobody_looks() -> None:
    """A view of any kind keeps its memory; what is idle is bounded."""
    buffers = Buffers()
    held = [buffers.empty((4, 3), np.float32) for _ in range(9)]
    assert len({array.ctypes.data for array in held}) == 9 == buffers.count
    assert all(array.ctypes.data % 64 == 0 for array in held)
    view = held[0].reshape(-1)[3:5].view(np.uint8)
    address = held[0].ctypes.data
    held.clear()
    fresh = [buffers.empty((4, 3), np.float32) for _ in range(8)]
    assert buffers.count == 9
    assert address not in {array.ctypes.data for array in fresh}
    del view, fresh
    buffers.empty((7,), np.uint8)
    assert buffers.count <= 5


def test_rows_in_hand_outlive_the_reading_and_hinder_nobody(lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """Views keep the file mapped for as long as they are in use; its owner may open the LMDB meanwhile."""
    source = open_source(make_layer("lmdb", lmdb_path, 4), "TRAIN")
    part = list(source.stream(3, 11, 4))[1].slice(1, 2)
    whole = next(source.read(0, 23))
    with lmdb.open(str(lmdb_path.resolve()), readonly=True, lock=False) as environment:
        assert environment.stat()["entries"] == 23
        assert [bytes(cell) for cell in part.data] == whole.column("data").to_pylist()[8:10]
    assert part.ids == ["00000008", "00000009"]
