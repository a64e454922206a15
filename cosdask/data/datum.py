"""Where a Datum's parts lie in its bytes, found without copying the pixels.

The wire format is protobuf's: a tag (field number and type), then a varint, or a length and that many bytes. Writers
put fields in the order of their numbers, each once; whatever looks otherwise is left to protobuf itself.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from cosdask.data.image_rows import Buffer
from cosdask.errors import DataError
from cosdask.proto import caffe_pb2

# Tags: field number * 8 + wire type (0: varint, 2: bytes).
_CHANNELS, _HEIGHT, _WIDTH, _DATA, _LABEL, _ENCODED = 0x08, 0x10, 0x18, 0x22, 0x28, 0x38
#: The fields before the pixels need no more bytes than this: four tags, four varints of five bytes. Those after them
#: need half of it.
_HEAD = 24


class DatumView(NamedTuple):
    """A Datum whose pixels are a view.

    Attributes:
        size: (channels, height, width).
        label: the label, 0 where none is stated.
        encoded: whether ``data`` is an encoded image.
        data: the pixels, or the encoded image.
        floats: float32 pixels (float_data), where the Datum holds no ``data``.
    """

    size: tuple[int, int, int]
    label: int
    encoded: bool
    data: Buffer
    floats: np.ndarray | None


class DatumReader:
    """Reads Datums one after the other; those that begin like the one before, as raw images of one size do, cost least.

    Example:
        >>> datum = caffe_pb2.Datum(channels=1, height=1, width=2, data=b"ab", label=7)
        >>> found = DatumReader().read(datum.SerializeToString())
        >>> found.size, found.label, bytes(found.data)
        ((1, 1, 2), 7, b'ab')
    """

    def __init__(self) -> None:
        self._last = _Head(b"", (0, 0, 0), 0, 0)

    def read(self, value: Buffer) -> DatumView:
        """A Datum's parts.

        Raises:
            DataError: the bytes are no Datum.
        """
        found = self.scan(value)
        if found is not None:
            return found
        try:
            datum = caffe_pb2.Datum.FromString(bytes(value))
        except DecodeError as error:
            raise DataError(f"not a Datum: {error}") from error
        floats = np.array(datum.float_data, np.float32) if len(datum.float_data) else None
        return DatumView((datum.channels, datum.height, datum.width), datum.label, datum.encoded, datum.data, floats)

    def scan(self, value: Buffer) -> DatumView | None:
        """A Datum as Caffe's tools write it, or None for bytes that protobuf must look at."""
        head = self._last
        begin = len(head.wire)
        try:
            if begin == 0 or value[:begin] != head.wire:
                self._last = head = _head(bytes(value[:_HEAD]), head)
                begin = len(head.wire)
            end = begin + head.length
            if end > len(value):
                return None
            label, encoded = _tail(bytes(value[end : end + _HEAD]))
        except (IndexError, _UnusualError):
            return None
        return DatumView(head.size, label, encoded, value[begin:end], None)


class _UnusualError(Exception):
    """Bytes that protobuf must look at."""


class _Head(NamedTuple):
    """What comes before the pixels: its bytes, the size, how many bytes the pixels take, and where that is said."""

    wire: bytes
    size: tuple[int, int, int]
    length: int
    place: int


def _head(start: bytes, last: _Head) -> _Head:
    """The head of a Datum that begins like ``start``; encoded images often differ from the last one in length only."""
    if last.place and start.startswith(last.wire[: last.place]):
        length, end = _varint(start, last.place)
        return _Head(start[:end], last.size, length, last.place)
    size = [0, 0, 0]
    at, least = 0, _CHANNELS
    while (tag := start[at]) != _DATA:
        if tag < least or tag > _WIDTH or tag & 7:
            raise _UnusualError
        size[(tag >> 3) - 1], at = _varint(start, at + 1)
        least = tag + 8
    length, end = _varint(start, at + 1)
    return _Head(start[:end], (size[0], size[1], size[2]), length, at + 1)


@lru_cache(maxsize=4096)
def _tail(rest: bytes) -> tuple[int, bool]:
    """Label and encoded, from all that comes after the pixels; longer rests than :data:`_HEAD` do not end well."""
    label, encoded, at = 0, 0, 0
    if rest and rest[0] == _LABEL:
        label, at = _varint(rest, 1)
    if at < len(rest) and rest[at] == _ENCODED:
        encoded, at = _varint(rest, at + 1)
    if at != len(rest):
        raise _UnusualError
    return label, encoded != 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number below 2^31 and the place after it; others (negative ones take ten bytes) are unusual."""
    number, shift = 0, 0
    while shift < 35:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number >> 31:
                break
            return number, at
        shift += 7
    raise _UnusualError
