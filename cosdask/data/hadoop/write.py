"""Writing SequenceFiles as Hadoop itself does, in its current version, so that its readers take them."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import IO

from cosdask.data.hadoop.codecs import codec_by_name
from cosdask.data.hadoop.sequence import ESCAPE, MAGIC, SYNC_BYTES, VERSION
from cosdask.data.hadoop.writables import BYTES, write_text, write_vint
from cosdask.errors import ConfigError, did_you_mean

COMPRESSIONS = ("none", "record", "block")
#: Bytes between two sync marks, at least, and raw bytes of a block.
_MARK_EVERY = 100_000
_BLOCK_BYTES = 1 << 20


class SequenceWriter:
    """Appends records to a binary file; closing writes what waits and leaves the file open.

    Args:
        file: where the bytes go; never read or sought.
        key_class: Java class of the keys.
        value_class: Java class of the values.
        compression: ``"none"``, ``"record"`` or ``"block"``.
        codec: short name, see :data:`cosdask.data.hadoop.codecs.CODECS`.
        metadata: texts for the header.
        sync: the 16 bytes of the marks; drawn at random, so that no data holds them by chance.

    Raises:
        ConfigError: an unknown compression or codec.

    Example:
        >>> import io
        >>> from cosdask.data.hadoop import SequenceReader, write_bytes
        >>> file = io.BytesIO()
        >>> with SequenceWriter(file, compression="block", codec="gzip") as writer:
        ...     writer.append(write_bytes(b"key"), write_bytes(b"value"))
        >>> reader = SequenceReader(file, "example", len(file.getvalue()))
        >>> [bytes(record.value[4:]) for record in reader.records()]
        [b'value']
    """

    def __init__(
        self,
        file: IO[bytes],
        key_class: str = BYTES,
        value_class: str = BYTES,
        compression: str = "none",
        codec: str = "default",
        metadata: Mapping[str, str] | None = None,
        sync: bytes | None = None,
    ) -> None:
        if compression not in COMPRESSIONS:
            hint = did_you_mean(compression, COMPRESSIONS) or f" There are {', '.join(COMPRESSIONS)}."
            raise ConfigError(f'no compression "{compression}" of SequenceFiles.{hint}')
        self.file, self.compression, self.codec = file, compression, codec_by_name(codec)
        self.rows = 0
        self._mark = ESCAPE + (os.urandom(SYNC_BYTES) if sync is None else sync)
        self._since_mark = 0
        self._keys: list[bytes] = []
        self._values: list[bytes] = []
        self._waiting = 0
        self._write_header(key_class, value_class, dict(metadata or {}))

    def __enter__(self) -> SequenceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def append(self, key: bytes, value: bytes) -> None:
        """Add a record; key and value in their classes' serialized form."""
        self.rows += 1
        if self.compression == "block":
            self._keys.append(key)
            self._values.append(value)
            self._waiting += len(key) + len(value)
            if self._waiting >= _BLOCK_BYTES:
                self._write_block()
            return
        if self.compression == "record":
            value = self.codec.compress(value)
        if self._since_mark >= _MARK_EVERY:
            self.file.write(self._mark)
            self._since_mark = 0
        size = len(key) + len(value)
        self.file.write(struct.pack(">ii", size, len(key)))
        self.file.write(key)
        self.file.write(value)
        self._since_mark += size + 8

    def close(self) -> None:
        """Write the last block."""
        if self._keys:
            self._write_block()

    def _write_header(self, key_class: str, value_class: str, metadata: dict[str, str]) -> None:
        compressed = self.compression != "none"
        parts = [MAGIC, bytes([VERSION]), write_text(key_class), write_text(value_class)]
        parts.append(bytes([compressed, self.compression == "block"]))
        if compressed:
            parts.append(write_text(self.codec.class_name))
        parts.append(struct.pack(">i", len(metadata)))
        parts += [write_text(text) for entry in metadata.items() for text in entry]
        parts.append(self._mark[len(ESCAPE) :])
        self.file.write(b"".join(parts))

    def _write_block(self) -> None:
        self.file.write(self._mark + write_vint(len(self._keys)))
        for items in (self._keys, self._values):
            for content in (b"".join(write_vint(len(item)) for item in items), b"".join(items)):
                packed = self.codec.compress(content)
                self.file.write(write_vint(len(packed)))
                self.file.write(packed)
        self._keys, self._values, self._waiting = [], [], 0
