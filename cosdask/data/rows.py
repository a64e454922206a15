"""Rows on their way from a source's storage to its decoder."""

from __future__ import annotations

from collections.abc import Sequence
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
