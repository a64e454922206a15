"""The rows that SequenceFiles.java writes, and that its reader is given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

Row = tuple[bytes, bytes]


def hadoop_rows(count: int) -> list[Row]:
    """Row i: the key is i as text, the value i * 7 % 3001 bytes that count up from i."""
    return [(str(i).encode(), bytes((i + k) % 256 for k in range(i * 7 % 3001))) for i in range(count)]


def digest(rows: Iterable[Row]) -> str:
    """SHA-256 over all keys and values."""
    total = hashlib.sha256()
    for key, value in rows:
        total.update(key)
        total.update(value)
    return total.hexdigest()
