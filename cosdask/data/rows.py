"""Rows on their way from a source's storage to its decoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa


class Rows(Protocol):
    """What :meth:`Source.stream` yields: a record batch, or a form that spares copies."""

    @property
    def num_rows(self) -> int:
        """How many rows these are."""
        ...

    def slice(self, offset: int, length: int) -> Any:
        """Rows ``offset`` to ``offset + length``, or to the end; nothing is copied."""
        ...


def gather(parts: Sequence[Any], take: np.ndarray) -> Any:
    """Some rows of several parts (of one kind) in a new order.

    Args:
        parts: rows that follow each other.
        take: int64, numbers of the rows wanted, counted over all parts.
    """
    if isinstance(parts[0], pa.RecordBatch):
        return pa.concat_batches(parts).take(pa.array(take))
    return type(parts[0]).gather(parts, take)


@dataclass(frozen=True)
class Records:
    """Records of a key-value store that follow each other; values may be views of what was read together."""

    keys: list[bytes]
    values: list[bytes | memoryview]


def regrouped(records: Iterable[Records], size: int) -> Iterator[Records]:
    """The same records, ``size`` at a time; the last ones may be fewer.

    Example:
        >>> parts = [Records([b"a", b"b", b"c"], [b"1", b"2", b"3"]), Records([b"d"], [b"4"])]
        >>> [group.keys for group in regrouped(parts, 2)]
        [[b'a', b'b'], [b'c', b'd']]
    """
    keys: list[bytes] = []
    values: list[bytes | memoryview] = []
    for part in records:
        keys, values = keys + part.keys, values + part.values
        whole = len(keys) - len(keys) % size
        for first in range(0, whole, size):
            yield Records(keys[first : first + size], values[first : first + size])
        keys, values = keys[whole:], values[whole:]
    if keys:
        yield Records(keys, values)
