"""Hadoop's Writables: how numbers, texts and bytes are laid out in keys and values of SequenceFiles.

Source: the formats that ``org.apache.hadoop.io.WritableUtils`` and the Writable classes document; big-endian all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from cosdask.errors import DataError

PACKAGE = "org.apache.hadoop.io."
BYTES = PACKAGE + "BytesWritable"
TEXT = PACKAGE + "Text"

#: Bytes of a key or value, where they lie or as a copy.
Buffer = bytes | memoryview

#: Most bytes that a variable-length number takes.
VINT_BYTES = 9


def write_vint(value: int) -> bytes:
    """A whole number of up to 64 bits in 1 to 9 bytes: small ones take one, else the first byte says sign and length.

    Example:
        >>> write_vint(7).hex(), write_vint(128).hex(), write_vint(-113).hex()
        ('07', '8f80', '8770')
    """
    if -112 <= value <= 127:
        return struct.pack("b", value)
    rest, mark = (value, -112) if value >= 0 else (~value, -120)
    size = (rest.bit_length() + 7) // 8
    return struct.pack("b", mark - size) + rest.to_bytes(size, "big")


def vint_size(first: int) -> int:
    """How many bytes a number takes whose first byte, 0 to 255, is ``first``."""
    signed = first - 256 if first > 127 else first
    if signed >= -112:
        return 1
    return -111 - signed if signed >= -120 else -119 - signed


def read_vint(data: Buffer, offset: int = 0) -> tuple[int, int]:
    """The number at ``offset`` and the offset behind it.

    Raises:
        DataError: the data ends inside of the number.

    Example:
        >>> read_vint(bytes.fromhex("8f80"))
        (128, 2)
    """
    if offset >= len(data):
        raise DataError("a number is missing")
    size = vint_size(data[offset])
    end = offset + size
    if end > len(data):
        raise DataError("a number is cut short")
    if size == 1:
        first = data[offset]
        return (first - 256 if first > 127 else first), end
    value = int.from_bytes(data[offset + 1 : end], "big")
    # Marks from -120 down mean a negative number, kept as its complement.
    return (~value if data[offset] < 136 else value), end


def write_bytes(value: bytes) -> bytes:
    """``value`` as a BytesWritable: its length in 4 bytes, then the bytes."""
    return struct.pack(">i", len(value)) + value


def read_bytes(data: Buffer) -> Buffer:
    """The content of a BytesWritable; a view where ``data`` is one.

    Raises:
        DataError: the length does not agree.
    """
    if len(data) < 4:
        raise DataError(f"a BytesWritable of {len(data)} bytes, 4 are the least")
    (size,) = struct.unpack_from(">i", data)
    if size != len(data) - 4:
        raise DataError(f"a BytesWritable says {size} bytes and has {len(data) - 4}")
    return data[4:]


def write_text(value: str) -> bytes:
    """``value`` as a Text: its length in UTF-8, then the UTF-8."""
    data = value.encode("utf-8")
    return write_vint(len(data)) + data


def read_text(data: Buffer) -> str:
    """The content of a Text.

    Raises:
        DataError: the length does not agree, or the bytes are not UTF-8.
    """
    size, start = read_vint(data)
    if size != len(data) - start:
        raise DataError(f"a Text says {size} bytes and has {len(data) - start}")
    try:
        return bytes(data[start:]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"a Text that is not UTF-8 (byte {error.start})") from error


def _fixed(form: str) -> Callable[[Buffer], Any]:
    layout = struct.Struct(form)

    def read(data: Buffer) -> Any:
        if len(data) != layout.size:
            raise DataError(f"{len(data)} bytes where {layout.size} are needed")
        return layout.unpack(data)[0]

    return read


def _read_number(data: Buffer) -> int:
    value, end = read_vint(data)
    if end != len(data):
        raise DataError(f"{len(data) - end} bytes behind a number")
    return value


def _read_null(data: Buffer) -> None:
    if data:
        raise DataError(f"{len(data)} bytes in a NullWritable, which has none")


_READERS: dict[str, Callable[[Buffer], Any]] = {
    "BytesWritable": lambda data: bytes(read_bytes(data)),
    "Text": read_text,
    "NullWritable": _read_null,
    "BooleanWritable": _fixed(">?"),
    "ByteWritable": _fixed(">b"),
    "ShortWritable": _fixed(">h"),
    "IntWritable": _fixed(">i"),
    "LongWritable": _fixed(">q"),
    "FloatWritable": _fixed(">f"),
    "DoubleWritable": _fixed(">d"),
    "VIntWritable": _read_number,
    "VLongWritable": _read_number,
}


def read_writable(class_name: str, data: Buffer) -> Any:
    """A key or value as a Python value; the bytes themselves where the class is none of Hadoop's simple ones.

    Args:
        class_name: full Java name, as a SequenceFile's header gives it.
        data: the serialized form.

    Raises:
        DataError: the bytes are not of this class.

    Example:
        >>> read_writable("org.apache.hadoop.io.LongWritable", bytes([0, 0, 0, 0, 0, 0, 0, 5]))
        5
    """
    read = _READERS.get(class_name.removeprefix(PACKAGE))
    return bytes(data) if read is None else read(data)
