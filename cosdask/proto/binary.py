"""Binary messages: caffemodels, solver states, means; and the arrays in them."""

from __future__ import annotations

import os
import re
from math import prod
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from cosdask.errors import ProtoError
from cosdask.proto import caffe_pb2
from cosdask.proto.text import missing_field
from cosdask.storage import read_bytes, stamp

M = TypeVar("M", bound=Message)

# protobuf's own limit for one message.
MAX_BINARY_BYTES = 2**31 - 1

# How a field's bytes lie on the wire, by the low three bits of its tag.
_VARINT, _BYTES = 0, 2
_FIXED_SIZES = {1: 8, 5: 4}
_LEGACY_AXES = ("num", "channels", "height", "width")
_OTHER_FORMATS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (name it so that it ends in .h5)",
    b"\x1f\x8b": "a gzip file (unpack it first)",
    b"PK\x03\x04": "a zip file (unpack it first)",
    b"version https://git-lfs": "a Git LFS pointer (fetch the real file with git lfs pull)",
    b"<!DOCTYPE": "a web page (the download went wrong)",
    b"<html": "a web page (the download went wrong)",
}
_PROTOTXT = re.compile(rb"\s*+(?:#[^\n]*+\s*+)*+[A-Za-z_]\w*+\s*[:{]")


def read_binary(path_or_url: str | os.PathLike[str], message: M, limit: int = MAX_BINARY_BYTES) -> M:
    """Fills ``message`` from a binary file. Fields that it does not know are kept, as newer writers may add some.

    Args:
        path_or_url: where the file lies.
        message: an empty message of the kind expected.
        limit: most bytes accepted; protobuf itself takes no more than 2 GiB.

    Returns:
        The same message, filled. It is not upgraded.

    Raises:
        ProtoError: damaged, cut short, larger than ``limit``, a prototxt or another kind of file.
        StorageError: missing or unreadable.
    """
    path = os.fspath(path_or_url)
    size = stamp(path).size
    if size > limit:
        raise ProtoError(f"{path}: {size:,} bytes are more than the {limit:,} accepted for a binary message", path=path)
    return parse_binary(read_bytes(path, limit), message, path)


def parse_binary(data: bytes, message: M, path: str = "<bytes>") -> M:
    """Fills ``message`` from bytes; see :func:`read_binary`.

    Raises:
        ProtoError: damaged, cut short, or another kind of data.
    """
    kind = message.DESCRIPTOR.name
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        why = _looks_like(data) or _first_damage(data)
        raise ProtoError(f"{path}: not a binary {kind}: {why}", path=path) from error
    if data and not message.ListFields():
        why = _looks_like(data) or "none of its fields is in it; is it another kind of message?"
        raise ProtoError(f"{path}: not a binary {kind}: {why}", path=path)
    if missing := missing_field(message):
        raise ProtoError(f"{path}: {missing} is missing in this {kind}", path=path)
    return message


def _looks_like(data: bytes) -> str:
    for start, what in _OTHER_FORMATS.items():
        if data.startswith(start):
            return f"it looks like {what}"
    head = data[:1024]
    if b"\0" not in head and _PROTOTXT.match(head):
        return "it looks like a text file (prototxt), and the binary form is needed here"
    return ""


def _first_damage(data: bytes) -> str:
    """A sentence on the first outermost field that cannot be right."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at)
        wire, number = tag & 7, tag >> 3
        if wire == _BYTES:
            length, at = _varint(data, at)
            at += length
        elif wire in _FIXED_SIZES:
            at += _FIXED_SIZES[wire]
        elif wire == _VARINT:
            _, at = _varint(data, at)
        if number == 0 or wire not in (_VARINT, _BYTES, *_FIXED_SIZES):
            return f"it is damaged at byte {start:,} of {len(data):,}"
        if at > len(data):
            short = at - len(data)
            return (
                f"field {number}, from byte {start:,}, goes {short:,} bytes beyond the end at {len(data):,}; "
                "it is cut short or damaged"
            )
    return f"one of its fields is damaged, or it is another kind of message ({len(data):,} bytes)"


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to ten bytes of seven bits each, lowest first, and where it ends (past the end if cut short)."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            return value, len(data) + 1
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, at


def blob_to_array(blob: caffe_pb2.BlobProto, diff: bool = False) -> np.ndarray:
    """The numbers of a blob.

    Args:
        blob: old ones say num, channels, height and width and are 4-D; today's say ``shape``.
        diff: the gradient in place of the value.

    Returns:
        float32 array of the blob's shape; numbers stored in double precision are rounded.

    Raises:
        ProtoError: the blob holds more or fewer numbers than its shape says.

    Example:
        >>> blob_to_array(array_to_blob(np.ones((2, 3), np.float32))).shape
        (2, 3)
    """
    single, double = (blob.diff, blob.double_diff) if diff else (blob.data, blob.double_data)
    legacy = any(blob.HasField(axis) for axis in _LEGACY_AXES)
    shape = tuple(getattr(blob, axis) for axis in _LEGACY_AXES) if legacy else tuple(blob.shape.dim)
    values = double or single
    if any(size < 0 for size in shape) or prod(shape) != len(values):
        raise ProtoError(f"a blob of shape {shape} needs {prod(shape):,} numbers, and it holds {len(values):,}")
    return np.array(values, dtype=np.float32).reshape(shape)


def array_to_blob(array: np.ndarray, like_legacy: bool = False) -> caffe_pb2.BlobProto:
    """A blob of an array, which is rounded to float32.

    Args:
        array: any shape.
        like_legacy: say num, channels, height and width (as mean files do) in place of ``shape``.

    Raises:
        ProtoError: ``like_legacy`` and more than 4 axes, or 2 GiB and more.
    """
    blob = caffe_pb2.BlobProto()
    # The numbers go in as the wire has them, which is 40 times faster than one by one.
    raw = np.asarray(array, dtype="<f4").tobytes()
    if len(raw) > MAX_BINARY_BYTES - 1024:
        raise ProtoError(f"an array of {len(raw):,} bytes is larger than a binary message may be (2 GiB)")
    tag = blob.DESCRIPTOR.fields_by_name["data"].number << 3 | _BYTES
    blob.MergeFromString(_to_varint(tag) + _to_varint(len(raw)) + raw)
    if not like_legacy:
        blob.shape.dim.extend(np.shape(array))
        return blob
    if np.ndim(array) > len(_LEGACY_AXES):
        raise ProtoError(f"an array of shape {np.shape(array)} has more than the 4 axes of an old blob")
    shape = (1,) * (len(_LEGACY_AXES) - np.ndim(array)) + np.shape(array)
    for axis, size in zip(_LEGACY_AXES, shape, strict=True):
        setattr(blob, axis, size)
    return blob


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
