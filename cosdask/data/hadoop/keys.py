"""CaffeOnSpark's keys of SequenceFiles: serialized Java tuples that say what the value's bytes are.

A pair is ``(id, label)`` of an encoded image (``scala.Tuple2``, and CaffeOnSpark's own ``Pair`` of old files); a
``scala.Tuple6`` is ``(id, label, channels, height, width, encoded)``.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from cosdask.data.hadoop.java import MAGIC, JavaObject, modified_utf8, read_java
from cosdask.errors import DataError

_PAIR = "com.yahoo.ml.dl.caffe.Pair"
_TUPLE2, _TUPLE6 = "scala.Tuple2", "scala.Tuple6"
_FIELDS = {
    _PAIR: ("first", "second"),
    _TUPLE2: ("_1", "_2"),
    _TUPLE6: ("_1", "_2", "_3", "_4", "_5", "_6"),
}
_TYPES: tuple[type, ...] = (str, str, int, int, int, bool)
#: serialVersionUIDs of Scala 2.11, which CaffeOnSpark's Spark 2 builds take.
_UIDS = {_TUPLE2: 3356420310891166197, _TUPLE6: 4027413073539505834}
_INTEGER, _NUMBER, _BOOLEAN = ("java.lang." + name for name in ("Integer", "Number", "Boolean"))
_BOX_UIDS = {_INTEGER: 1360826667806852920, _NUMBER: -8742448824652078965, _BOOLEAN: -3665804199014368530}
#: Different sizes of rows that a reader of keys remembers.
_LEARNED = 4096
_STRING_LIMIT = 0xFFFF
#: Java keeps one Integer object for each number of this range, so equal ones are back-references in its streams.
_CACHED = range(-128, 128)


class RowKey(NamedTuple):
    """What a key says about its row."""

    id: str
    label: str
    channels: int
    height: int
    width: int
    encoded: bool


def read_key(data: bytes) -> RowKey:
    """The row that a key's stream describes.

    Raises:
        DataError: no such key.

    Example:
        >>> read_key(pair_key("cat1.jpg", "0"))
        RowKey(id='cat1.jpg', label='0', channels=1, height=0, width=0, encoded=True)
    """
    found = read_java(data)
    if not isinstance(found, JavaObject) or found.class_name not in _FIELDS:
        kind = found.class_name if isinstance(found, JavaObject) else type(found).__name__
        raise DataError(f"a key of the class {kind}; CaffeOnSpark's are {', '.join(_FIELDS)}")
    values = [found.fields.get(name) for name in _FIELDS[found.class_name]]
    for name, value, wanted in zip(RowKey._fields, values, _TYPES, strict=False):
        if type(value) is not wanted:
            raise DataError(f"a key of the class {found.class_name} whose {name} is {value!r}, no {wanted.__name__}")
    if len(values) == 2:
        return RowKey(str(values[0]), str(values[1]), 1, 0, 0, True)
    return RowKey(*_checked(values))


class KeyReader:
    """Reads the keys of many rows: what is the same in all of them is understood once.

    A key is a description of classes, two strings, and (in a Tuple6) numbers. Descriptions, and numbers that came
    before, are looked up by their bytes; anything else goes through :func:`read_key`.
    """

    def __init__(self) -> None:
        self._heads: list[bytes] = []
        self._tails: dict[tuple[bytes, bytes], tuple[int, int, int, bool]] = {}

    def read(self, data: bytes) -> RowKey:
        """As :func:`read_key`."""
        for head in self._heads:
            if data.startswith(head) and (found := _two_strings(data, len(head))) is not None:
                name, label, at = found
                sizes = self._tails.get((head, data[at:]))
                if sizes is not None:
                    return RowKey(name, label, *sizes)
        row = read_key(data)
        self._learn(data, row)
        return row

    def _learn(self, data: bytes, row: RowKey) -> None:
        # A class without a superclass ends like this, and the values follow.
        end = data.find(b"\x78\x70") + 2
        found = _two_strings(data, end)
        if found is None or found[:2] != row[:2] or len(self._tails) >= _LEARNED:
            return
        if data[:end] not in self._heads:
            self._heads.append(data[:end])
        self._tails[data[:end], data[found[2] :]] = row[2:]


def _two_strings(data: bytes, at: int) -> tuple[str, str, int] | None:
    """Two short ASCII strings of a stream and where they end; None where there are other things."""
    texts: list[str] = []
    for _ in range(2):
        if data[at : at + 1] != b"\x74":
            return None
        end = at + 3 + int.from_bytes(data[at + 1 : at + 3], "big")
        part = data[at + 3 : end]
        if end > len(data) or not part.isascii():
            return None
        texts.append(part.decode("ascii"))
        at = end
    return texts[0], texts[1], at


def _checked(values: list[Any]) -> list[Any]:
    if min(values[2:5]) < 0:
        raise DataError(f"a key with channels, height, width = {values[2:5]}")
    return values


def pair_key(name: str, label: str) -> bytes:
    """The stream of ``scala.Tuple2(name, label)``, as Binary2Sequence writes it."""
    return _start(_TUPLE2) + _string(name) + _string(label)


def row_key(row: RowKey) -> bytes:
    """The stream of a ``scala.Tuple6``, as LMDB2Sequence writes it."""
    parts = [_start(_TUPLE6), _string(row.id), _string(row.label)]
    # Handles so far: the class, the type of its fields, the tuple, its two strings.
    handle = _Handle(5)
    integers: dict[int, int] = {}
    class_at = None
    for value in (row.channels, row.height, row.width):
        if value in integers:
            parts.append(b"\x71" + struct.pack(">i", integers[value]))
            continue
        if class_at is None:
            class_at = handle.next(2)
            parts.append(b"\x73" + _INTEGER_CLASS)
        else:
            parts.append(b"\x73\x71" + struct.pack(">i", class_at))
        place = handle.next()
        if value in _CACHED:
            integers[value] = place
        parts.append(struct.pack(">i", value))
    parts.append(b"\x73" + _described(_BOOLEAN, b"Z", "value") + b"\x70" + bytes([row.encoded]))
    return b"".join(parts)


class _Handle:
    """Numbers of the objects of a stream."""

    def __init__(self, used: int) -> None:
        self.at = 0x7E0000 + used

    def next(self, count: int = 1) -> int:
        self.at += count
        return self.at - count


def _name(text: str) -> bytes:
    data = modified_utf8(text)
    if len(data) > _STRING_LIMIT:
        raise DataError(f"a name of {len(data)} bytes; {_STRING_LIMIT} are the most in a key: {text[:60]!r}...")
    return struct.pack(">H", len(data)) + data


def _string(text: str) -> bytes:
    return b"\x74" + _name(text)


def _described(class_name: str, kind: bytes, field: str) -> bytes:
    """A class with one field of a simple type, or none."""
    head = b"\x72" + _name(class_name) + struct.pack(">q", _BOX_UIDS[class_name]) + b"\x02"
    return head + (b"\x00\x01" + kind + _name(field) if field else b"\x00\x00") + b"\x78"


def _tuple_start(class_name: str) -> bytes:
    """The stream up to the values of a tuple: every field is a java.lang.Object."""
    names = _FIELDS[class_name]
    parts = [MAGIC, b"\x73\x72", _name(class_name), struct.pack(">q", _UIDS[class_name]), b"\x02"]
    parts.append(struct.pack(">H", len(names)))
    for number, name in enumerate(names):
        kind = b"\x74" + _name("Ljava/lang/Object;") if number == 0 else b"\x71\x00\x7e\x00\x01"
        parts.append(b"L" + _name(name) + kind)
    return b"".join([*parts, b"\x78\x70"])


_STARTS = {name: _tuple_start(name) for name in _UIDS}
_INTEGER_CLASS = _described(_INTEGER, b"I", "value") + _described(_NUMBER, b"", "") + b"\x70"


def _start(class_name: str) -> bytes:
    return _STARTS[class_name]
