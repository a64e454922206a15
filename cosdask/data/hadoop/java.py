"""Java's serialized objects, read as plain values: no class is looked up and nothing is executed.

Only what data needs is taken: strings, null, objects of named fields, arrays of bytes, and back-references. Source:
the grammar of the stream in the "Java Object Serialization Specification", section 6.4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, NoReturn

from cosdask.errors import DataError

MAGIC = b"\xac\xed\x00\x05"
_NULL, _REFERENCE, _CLASS, _OBJECT, _STRING, _ARRAY = 0x70, 0x71, 0x72, 0x73, 0x74, 0x75
_BLOCK, _END, _LONG_BLOCK, _LONG_STRING = 0x77, 0x78, 0x7A, 0x7C
_FIRST_HANDLE = 0x7E0000
_WRITE_METHOD, _SERIALIZABLE = 0x01, 0x02
_PRIMITIVES = {"B": ">b", "C": ">H", "D": ">d", "F": ">f", "I": ">i", "J": ">q", "S": ">h", "Z": ">?"}
#: Classes that stand for one number or truth value.
_BOXES = {
    "java.lang." + name for name in ("Boolean", "Byte", "Character", "Double", "Float", "Integer", "Long", "Short")
}
_DEPTH = 32
_HANDLES = 4096
_FIELDS = 256


@dataclass
class JavaObject:
    """An object: its class and its fields, those of the superclasses too."""

    class_name: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Class:
    """What the stream says about a class."""

    name: str
    flags: int
    fields: list[tuple[str, str]]
    parent: _Class | None = None


def read_java(data: bytes) -> Any:
    """The object that a stream holds.

    Returns:
        A str, None, bytes (from ``byte[]``), a number or bool (from ``java.lang.Integer`` and its like), or a
        :class:`JavaObject`. The serialVersionUID is not looked at: it differs between versions of Scala.

    Raises:
        DataError: not such a stream, damaged, or with things that no data needs (arrays, classes with a format of
            their own, proxies).

    Example:
        >>> read_java(bytes.fromhex("aced0005740003636174"))
        'cat'
    """
    stream = _Stream(data)
    if not data.startswith(MAGIC):
        raise DataError(f"not a serialized Java object: it begins with {data[:4].hex() or 'nothing'}")
    stream.take(len(MAGIC))
    found = stream.content(0)
    if stream.at != len(data):
        stream.refuse(f"{len(data) - stream.at} bytes behind the object")
    return found


def utf8(data: bytes) -> str:
    """Java's "modified UTF-8" as text: zero takes two bytes, and characters beyond 16 bits are surrogate pairs.

    Raises:
        DataError: not in this encoding.
    """
    try:
        text = data.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeError as error:
        raise DataError(f"a Java string that cannot be decoded: {error}") from error


def modified_utf8(text: str) -> bytes:
    """The inverse of :func:`utf8`."""
    units = struct.iter_unpack("<H", text.encode("utf-16-le", "surrogatepass"))
    if text.isascii() and "\0" not in text:
        return text.encode("ascii")
    return b"".join(b"\xc0\x80" if unit == 0 else chr(unit).encode("utf-8", "surrogatepass") for (unit,) in units)


class _Stream:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.handles: list[Any] = []

    def refuse(self, text: str) -> NoReturn:
        raise DataError(f"a serialized Java object that cannot be read: {text} (byte {self.at})")

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            self.refuse("it is cut short")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return utf8(self.take(self.number(">H")))

    def keep(self, value: Any) -> int:
        """Remember what a later reference may mean; its place in the table."""
        if len(self.handles) >= _HANDLES:
            self.refuse(f"more than {_HANDLES} objects")
        self.handles.append(value)
        return len(self.handles) - 1

    def reference(self) -> Any:
        number = self.number(">i") - _FIRST_HANDLE
        if not 0 <= number < len(self.handles):
            self.refuse("a reference to nothing")
        return self.handles[number]

    def content(self, depth: int) -> Any:
        if depth > _DEPTH:
            self.refuse(f"objects more than {_DEPTH} deep")
        kind = self.number(">B")
        if kind == _NULL:
            return None
        if kind == _REFERENCE:
            found = self.reference()
            if isinstance(found, _Class):
                self.refuse("a class where an object belongs")
            return found
        if kind in (_STRING, _LONG_STRING):
            return self.string(kind)
        if kind == _OBJECT:
            return self.object(depth)
        if kind == _ARRAY:
            return self.array(depth)
        self.refuse(f"an element of kind 0x{kind:02x}")

    def string(self, kind: int) -> str:
        if kind == _STRING:
            text = self.text()
        else:
            size = self.number(">q")
            text = utf8(self.take(size if size >= 0 else len(self.data)))
        self.keep(text)
        return text

    def described(self, depth: int) -> _Class | None:
        """A class description, or a reference to one; its superclass is one deeper."""
        if depth > _DEPTH:
            self.refuse(f"classes more than {_DEPTH} deep")
        kind = self.number(">B")
        if kind == _NULL:
            return None
        if kind == _REFERENCE:
            found = self.reference()
            if not isinstance(found, _Class):
                self.refuse("an object where a class belongs")
            return found
        if kind != _CLASS:
            self.refuse(f"a class description of kind 0x{kind:02x}")
        name = self.text()
        self.take(8)
        described = _Class(name, 0, [])
        self.keep(described)
        described.flags = self.number(">B")
        described.fields = [self.field() for _ in range(self.count())]
        self.annotation(depth)
        described.parent = self.described(depth + 1)
        return described

    def count(self) -> int:
        found: int = self.number(">H")
        if found > _FIELDS:
            self.refuse(f"{found} fields")
        return found

    def field(self) -> tuple[str, str]:
        """Name and type of a field."""
        kind = chr(self.number(">B"))
        name = self.text()
        if kind in "[L":
            # The type's own name is a string of the stream, and takes a handle.
            if not isinstance(self.content(_DEPTH), str):
                self.refuse("a field without a type")
        elif kind not in _PRIMITIVES:
            self.refuse(f"a field of type {kind!r}")
        return name, kind

    def annotation(self, depth: int) -> None:
        """Pass what a class wrote by itself."""
        while (kind := self.number(">B")) != _END:
            if kind == _BLOCK:
                self.take(self.number(">B"))
            elif kind == _LONG_BLOCK:
                self.take(max(0, self.number(">i")))
            else:
                self.at -= 1
                self.content(depth + 1)

    def object(self, depth: int) -> Any:
        described = self.described(depth)
        if described is None:
            self.refuse("an object without a class")
        found = JavaObject(described.name)
        place = self.keep(found)
        chain: list[_Class] = []
        step: _Class | None = described
        while step is not None:
            chain.append(step)
            if len(chain) > _DEPTH:
                self.refuse(f"more than {_DEPTH} superclasses")
            step = step.parent
        for part in reversed(chain):
            if part.flags & ~_WRITE_METHOD != _SERIALIZABLE:
                self.refuse(f"the class {part.name} has a format of its own")
            for name, kind in part.fields:
                found.fields[name] = self.content(depth + 1) if kind in "[L" else self.number(_PRIMITIVES[kind])
            if part.flags & _WRITE_METHOD:
                self.annotation(depth)
        if found.class_name in _BOXES:
            self.handles[place] = found.fields.get("value")
            return self.handles[place]
        return found

    def array(self, depth: int) -> bytes:
        described = self.described(depth)
        if described is None or described.name != "[B":
            self.refuse("an array of other things than bytes")
        place = self.keep(None)
        size = self.number(">i")
        if size < 0:
            self.refuse(f"an array of {size} bytes")
        self.handles[place] = found = self.take(size)
        return found
