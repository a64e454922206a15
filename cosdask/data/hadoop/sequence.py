"""Reading Hadoop's SequenceFiles: plain, record-compressed and block-compressed, from any place in the file.

Layout (source: the documentation of ``org.apache.hadoop.io.SequenceFile``): a header, then records. A record is its
length, its key's length, key and value; every now and then -1 stands in place of the length, followed by the file's 16
sync bytes. Record-compressed files compress each value; block-compressed ones put, after each sync mark, a number of
records and four compressed buffers: lengths of keys, keys, lengths of values, values. Marks let a reader begin in the
middle of a file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, NamedTuple, NoReturn

from cosdask.data.hadoop.codecs import Codec, codec_by_class
from cosdask.data.hadoop.writables import PACKAGE, VINT_BYTES, Buffer, read_vint, vint_size
from cosdask.errors import DataError

MAGIC = b"SEQ"
#: The version that Hadoop has written since 2006; older ones are read too.
VERSION = 6
ESCAPE = b"\xff\xff\xff\xff"
SYNC_BYTES = 16
MARK_BYTES = len(ESCAPE) + SYNC_BYTES
#: Most bytes of a record, of a value after decompression, and of a decompressed buffer of a block.
RECORD_LIMIT = 1 << 28
BLOCK_LIMIT = 1 << 29
#: Most bytes of a class name or of an entry of the metadata, and most entries.
_NAME_LIMIT = 1 << 16
_ENTRIES_LIMIT = 1 << 10
_SEARCH = 1 << 20


class Record(NamedTuple):
    """A record: key and value as their classes serialized them, and where it (or its block) lies in the file.

    The value is a view of the bytes read, in which the neighbors may lie, too.
    """

    key: bytes
    value: Buffer
    offset: int


class Chunk(NamedTuple):
    """``rows`` records that begin at byte ``offset``; reading may begin there."""

    offset: int
    rows: int
    size: int


@dataclass(frozen=True)
class Header:
    """What a SequenceFile says about itself.

    Attributes:
        version: 0 to 6.
        key_class: Java class of the keys.
        value_class: Java class of the values.
        compression: ``"none"``, ``"record"`` or ``"block"``.
        codec: how it is compressed.
        sync: the 16 bytes of this file's marks; none in versions 0 and 1.
        end: where the records begin.
        metadata: texts that the writer added.
    """

    version: int
    key_class: str
    value_class: str
    compression: str
    codec: Codec | None
    sync: bytes
    end: int
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def mark(self) -> bytes:
        """A sync mark of this file; empty where there are none."""
        return ESCAPE + self.sync if self.sync else b""


class SequenceReader:
    """One open SequenceFile.

    Args:
        file: binary and seekable; the caller closes it.
        name: path or URL, for messages.
        size: bytes of the file.

    Raises:
        DataError: no SequenceFile, or its header is damaged or says what cannot be read.
    """

    def __init__(self, file: IO[bytes], name: str, size: int) -> None:
        self.file, self.name, self.size = file, name, size
        self._at = 0
        #: the row being read, for messages; None while there is no telling
        self._row: int | None = None
        self._seek(0)
        self.header = self._header()

    def records(self, offset: int | None = None, skip: int = 0, first: int = 0) -> Iterator[Record]:
        """The records from ``offset`` on to the end of the file.

        Args:
            offset: where a record or block begins, as :meth:`chunks` tells; default: at the first one.
            skip: records to leave out.
            first: number of the first record that is given, for messages.

        Raises:
            DataError: damage, named by file, byte and row.
        """
        self._seek(self.header.end if offset is None else offset)
        read = self._blocks if self.header.compression == "block" else self._singles
        self._row = first
        for number, record in enumerate(read(skip), start=first + 1):
            yield record
            self._row = number

    def chunks(self, start: int, stop: int, rows: int, size: int) -> Iterator[Chunk]:
        """Count the records whose sync mark lies in bytes ``start`` to ``stop``, without reading their values.

        Ranges that follow each other count each record exactly once.

        Args:
            start: first byte; 0 for the file's first record on.
            stop: the first byte that belongs to somebody else.
            rows: records of a chunk, at most, unless a compressed block has more.
            size: bytes of a chunk, at which it ends.

        Raises:
            DataError: damage, named by file and byte.
        """
        begin = self._find_mark(max(start, self.header.end)) if start else self.header.end
        if begin is None or (start and begin >= stop):
            return
        self._seek(begin)
        self._row = None
        offset, count = begin, 0
        for at, more in self._lengths(stop):
            count += more
            if count and (count >= rows or at - offset >= size):
                yield Chunk(offset, count, at - offset)
                offset, count = at, 0
        if count:
            yield Chunk(offset, count, self._at - offset)

    # Counting.

    def _lengths(self, stop: int) -> Iterator[tuple[int, int]]:
        """After each record or block, where the next begins and how many records it had; ends at a mark."""
        while self._at < self.size:
            at = self._at
            if self._mark_here():
                if at >= stop:
                    self._seek(at)
                    return
                if self.header.compression == "block":
                    count = self._vint("the number of records")
                    for _ in range(4):
                        self._skip(self._length("a compressed buffer"))
                    yield self._at, count
            elif self.header.compression == "block":
                self._damaged("a block without its sync mark", at)
            else:
                key, value = self._record_lengths(at)
                self._skip(key + value)
                yield self._at, 1

    def _find_mark(self, start: int) -> int | None:
        """Where the first sync mark at or after ``start`` begins; None where there is none."""
        mark = self.header.mark
        if not mark:
            return None
        tail, base = b"", start
        self._seek(start)
        while self._at < self.size:
            data = tail + self._take(min(_SEARCH, self.size - self._at), "a part")
            place = data.find(mark)
            if place >= 0:
                return base + place
            tail = data[-(MARK_BYTES - 1) :]
            base += len(data) - len(tail)
        return None

    # Records.

    def _singles(self, skip: int) -> Iterator[Record]:
        codec = self.header.codec if self.header.compression == "record" else None
        while self._at < self.size:
            at = self._at
            if self._mark_here():
                continue
            key, value = self._record_lengths(at)
            if skip:
                skip -= 1
                self._skip(key + value)
                continue
            data = self._take(key + value, "a record")
            content: Buffer = memoryview(data)[key:]
            if codec is not None:
                try:
                    content = codec.decompress(data[key:], RECORD_LIMIT)
                except DataError as error:
                    self._damaged(str(error), at)
            yield Record(data[:key], content, at)

    def _blocks(self, skip: int) -> Iterator[Record]:
        while self._at < self.size:
            at = self._at
            if not self._mark_here():
                self._damaged("a block without its sync mark", at)
            count = self._vint("the number of records")
            if skip >= count:
                skip -= count
                for _ in range(4):
                    self._skip(self._length("a compressed buffer"))
                continue
            key_sizes = self._sizes(count, at)
            keys = self._buffer(at, "keys", sum(key_sizes))
            value_sizes = self._sizes(count, at)
            values = memoryview(self._buffer(at, "values", sum(value_sizes)))
            key_at = value_at = 0
            for number, (key, value) in enumerate(zip(key_sizes, value_sizes, strict=True)):
                if number >= skip:
                    yield Record(keys[key_at : key_at + key], values[value_at : value_at + value], at)
                key_at, value_at = key_at + key, value_at + value
            skip = 0

    def _sizes(self, count: int, at: int) -> list[int]:
        """The buffer of lengths of a block's keys or values."""
        data = self._buffer(at, "lengths")
        sizes: list[int] = []
        offset = 0
        try:
            while offset < len(data):
                size, offset = read_vint(data, offset)
                sizes.append(size)
        except DataError as error:
            self._damaged(f"the lengths of a block: {error}", at)
        if len(sizes) != count or min(sizes, default=0) < 0:
            self._damaged(f"a block of {count} records with {len(sizes)} lengths, or a negative one", at)
        return sizes

    def _buffer(self, at: int, what: str, wanted: int | None = None) -> bytes:
        packed = self._take(self._length(f"the {what} of a block"), f"the {what} of a block")
        assert self.header.codec is not None
        try:
            data = self.header.codec.decompress(packed, BLOCK_LIMIT)
        except DataError as error:
            self._damaged(f"the {what} of a block: {error}", at)
        if wanted is not None and len(data) != wanted:
            self._damaged(f"the {what} of a block take {len(data)} bytes, their lengths say {wanted}", at)
        return data

    def _record_lengths(self, at: int) -> tuple[int, int]:
        """Bytes of the key and of the value of the record that begins here."""
        whole, key = struct.unpack(">ii", self._take(8, "a record"))
        if not 0 <= key <= whole or whole > RECORD_LIMIT:
            self._damaged(f"a record of {whole} bytes with a key of {key}; at most {RECORD_LIMIT:,} are accepted", at)
        if whole > self.size - self._at:
            self._damaged(f"a record of {whole} bytes where the file has {self.size - self._at} left", at)
        return key, whole - key

    def _mark_here(self) -> bool:
        """Pass a sync mark, if one is here."""
        if not self.header.sync:
            return False
        at = self._at
        data = self._take(min(4, self.size - at), "a record")
        if data != ESCAPE:
            self._seek(at)
            return False
        if self._take(SYNC_BYTES, "a sync mark") != self.header.sync:
            self._damaged("the bytes of a sync mark are not this file's", at)
        return True

    # The header.

    def _header(self) -> Header:
        if self.size < 4 or self._take(3, "the header") != MAGIC:
            raise DataError(f"{self.name}: not a SequenceFile, it does not begin with SEQ", path=self.name)
        version = self._take(1, "the header")[0]
        if version > VERSION:
            raise DataError(f"{self.name}: a SequenceFile of version {version}; up to {VERSION} can be read")
        name = self._old_text if version < 4 else self._text
        key, value = name("the key's class"), name("the value's class")
        compressed = version > 2 and self._flag("compressed")
        block = version >= 4 and self._flag("block-compressed")
        codec = None
        if compressed:
            class_name = self._text("the codec's class") if version >= 5 else PACKAGE + "compress.DefaultCodec"
            try:
                codec = codec_by_class(class_name)
            except DataError as error:
                raise DataError(f"{self.name}: {error}", path=self.name) from None
        elif block:
            self._damaged("compressed in blocks, but not compressed", self._at)
        metadata = self._metadata() if version >= 6 else {}
        sync = self._take(SYNC_BYTES, "the sync bytes") if version > 1 else b""
        compression = "block" if block else "record" if compressed else "none"
        return Header(version, key, value, compression, codec, sync, self._at, metadata)

    def _metadata(self) -> dict[str, str]:
        (count,) = struct.unpack(">i", self._take(4, "the metadata"))
        if not 0 <= count <= _ENTRIES_LIMIT:
            self._damaged(f"{count} entries of metadata", self._at)
        return {self._text("the metadata"): self._text("the metadata") for _ in range(count)}

    def _text(self, what: str) -> str:
        return self._utf8(self._length(what), what)

    def _old_text(self, what: str) -> str:
        return self._utf8(int.from_bytes(self._take(2, what), "big"), what)

    def _utf8(self, size: int, what: str) -> str:
        at = self._at
        if size > _NAME_LIMIT:
            self._damaged(f"{what} takes {size} bytes", at)
        try:
            return self._take(size, what).decode("utf-8")
        except UnicodeDecodeError:
            self._damaged(f"{what} is not UTF-8", at)

    def _flag(self, what: str) -> bool:
        at, byte = self._at, self._take(1, "the header")[0]
        if byte > 1:
            self._damaged(f"the flag for {what} is {byte}", at)
        return byte == 1

    # Bytes.

    def _seek(self, at: int) -> None:
        self.file.seek(at)
        self._at = at

    def _skip(self, count: int) -> None:
        self._seek(self._at + count)

    def _take(self, count: int, what: str) -> bytes:
        """Exactly ``count`` bytes."""
        at = self._at
        if count > self.size - at:
            self._damaged(f"the file ends inside of {what}; the copy may be cut short", at)
        try:
            data = self.file.read(count)
        except OSError as error:
            self._damaged(f"cannot be read: {error}", at)
        if len(data) != count:
            self._damaged(f"the file ends inside of {what}; did it change meanwhile?", at)
        self._at = at + count
        return data

    def _vint(self, what: str) -> int:
        at = self._at
        first = self._take(1, what)
        rest = self._take(min(vint_size(first[0]), VINT_BYTES) - 1, what)
        value, _ = read_vint(first + rest)
        if value < 0:
            self._damaged(f"{what} is {value}", at)
        return value

    def _length(self, what: str) -> int:
        """A length that the rest of the file can hold."""
        at, value = self._at, self._vint(f"the length of {what}")
        if value > self.size - self._at:
            self._damaged(f"{what} takes {value} bytes, the file has {self.size - self._at} left", at)
        return value

    def _damaged(self, text: str, at: int) -> NoReturn:
        row = self._row
        where = f"{self.name}: byte {at}" + ("" if row is None else f", row {row}")
        extra = {} if row is None else {"row": row}
        raise DataError(f"{where}: damaged SequenceFile: {text}", path=self.name, offset=at, **extra)
