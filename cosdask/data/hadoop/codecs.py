"""Hadoop's compression codecs by their Java class names, as they lie inside of SequenceFiles.

Default, Deflate, Gzip, BZip2 and ZStandard are plain streams of those formats. Snappy comes in Hadoop's own frame: the
length of the raw data in 4 bytes, then chunks, each with its compressed length in 4 bytes, until that much is there.
"""

from __future__ import annotations

import bz2
import gzip
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cosdask.errors import ConfigError, DataError, did_you_mean

_PACKAGE = "org.apache.hadoop.io.compress."
#: Hadoop's readers hold a chunk in a buffer of 256 KB with some reserve.
_SNAPPY_CHUNK = 128 << 10
_ZLIB, _GZIP = 15, 31


@dataclass(frozen=True)
class Codec:
    """One codec.

    Attributes:
        name: short name, as options give it.
        class_name: the Java class, as headers give it.
        compress: raw bytes to compressed ones.
        decompress: compressed bytes and the most raw bytes accepted, to raw bytes; raises DataError.
    """

    name: str
    class_name: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes, int], bytes]


def _too_much(limit: int) -> DataError:
    return DataError(f"compressed data grows beyond the {limit:,} bytes accepted")


def _inflate(data: bytes, limit: int, window: int) -> bytes:
    """Zlib or gzip."""
    return _streams(data, limit, lambda: zlib.decompressobj(window))


def _bunzip(data: bytes, limit: int) -> bytes:
    return _streams(data, limit, bz2.BZ2Decompressor)


def _streams(data: bytes, limit: int, begin: Callable[[], Any]) -> bytes:
    """Compressed streams, several of which may follow each other; ``begin`` gives a decompressor for the next."""
    parts: list[bytes] = []
    have = 0
    while data:
        stream = begin()
        try:
            part = stream.decompress(data, limit - have + 1)
        except (zlib.error, OSError, ValueError) as error:
            raise DataError(f"compressed data is damaged: {error}") from error
        have += len(part)
        if have > limit:
            raise _too_much(limit)
        if not stream.eof:
            raise DataError("compressed data is cut short")
        parts.append(part)
        data = stream.unused_data
    return b"".join(parts)


def _unzstd(data: bytes, limit: int) -> bytes:
    if not data:
        return b""
    try:
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            found: bytes = stream.read(limit + 1)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"compressed data is damaged: {error}") from error
    if len(found) > limit:
        raise _too_much(limit)
    return found


def _zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return packed


def _snappy(data: bytes) -> bytes:
    if not data:
        return struct.pack(">i", 0)
    codec = pa.Codec("snappy")
    parts: list[bytes] = []
    for start in range(0, len(data), _SNAPPY_CHUNK):
        raw = data[start : start + _SNAPPY_CHUNK]
        packed = codec.compress(raw, asbytes=True)
        parts += [struct.pack(">ii", len(raw), len(packed)), packed]
    return b"".join(parts)


def _unsnappy(data: bytes, limit: int) -> bytes:
    codec = pa.Codec("snappy")
    parts: list[bytes] = []
    have = offset = 0
    while offset < len(data):
        size, offset = _length(data, offset)
        have += size
        if have > limit:
            raise _too_much(limit)
        while size > 0:
            packed, offset = _length(data, offset)
            chunk = data[offset : offset + packed]
            raw = _snappy_size(chunk)
            if len(chunk) != packed or not 0 < raw <= size:
                raise DataError("compressed data is damaged: the lengths of its chunks do not agree")
            try:
                parts.append(codec.decompress(chunk, raw, asbytes=True))
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"compressed data is damaged: {error}") from error
            size -= raw
            offset += packed
    return b"".join(parts)


def _length(data: bytes, offset: int) -> tuple[int, int]:
    if len(data) - offset < 4:
        raise DataError("compressed data is cut short")
    (size,) = struct.unpack_from(">i", data, offset)
    if size < 0:
        raise DataError(f"compressed data is damaged: a length of {size}")
    return size, offset + 4


def _snappy_size(chunk: bytes) -> int:
    """What raw size a snappy chunk says; -1 when it says none. It begins with it: 7 bits a byte, the lowest first."""
    size = 0
    for place, byte in enumerate(chunk[:5]):
        size |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return size
    return -1


CODECS = {
    codec.name: codec
    for codec in (
        Codec("default", _PACKAGE + "DefaultCodec", zlib.compress, lambda data, limit: _inflate(data, limit, _ZLIB)),
        Codec("deflate", _PACKAGE + "DeflateCodec", zlib.compress, lambda data, limit: _inflate(data, limit, _ZLIB)),
        Codec(
            "gzip",
            _PACKAGE + "GzipCodec",
            lambda data: gzip.compress(data, mtime=0),
            lambda data, limit: _inflate(data, limit, _GZIP),
        ),
        Codec("bzip2", _PACKAGE + "BZip2Codec", bz2.compress, _bunzip),
        Codec("snappy", _PACKAGE + "SnappyCodec", _snappy, _unsnappy),
        Codec("zstd", _PACKAGE + "ZStandardCodec", _zstd, _unzstd),
    )
}
_BY_CLASS = {codec.class_name: codec for codec in CODECS.values()}


def codec_by_name(name: str) -> Codec:
    """The codec of a short name.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in CODECS:
        raise ConfigError(f'no codec "{name}".{did_you_mean(name, CODECS)} There are {", ".join(CODECS)}')
    return CODECS[name]


def codec_by_class(class_name: str) -> Codec:
    """The codec of a Java class.

    Raises:
        DataError: a codec that cosdask does not know.
    """
    if class_name not in _BY_CLASS:
        known = ", ".join(_BY_CLASS)
        raise DataError(f"compressed with {class_name}, which cannot be read; these can: {known}")
    return _BY_CLASS[class_name]
