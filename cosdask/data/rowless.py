"""Nets that make their own data (DummyData, Python data layers): a source without rows to read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar

import numpy as np
import pyarrow as pa

from cosdask.data.base import CHUNK, Source
from cosdask.data.draw import Draw
from cosdask.data.index import Block, Index

#: layer types that give data by themselves
SELF_FED = ("DummyData", "Python")


class RowlessSource(Source):
    """Feeds nothing. A batch counts as one row, so that a training's plan and its metrics work as for any source."""

    kind: ClassVar[str] = "rowless"

    @property
    def batch_size(self) -> int:
        """One: what a batch holds is the layers' own business."""
        return 1

    @cached_property
    def tops(self) -> dict[str, tuple[int, ...]]:
        """None."""
        return {}

    @property
    def schema(self) -> pa.Schema:
        """The SampleID alone."""
        return pa.schema([pa.field("id", pa.string())])

    def _count(self) -> Index:
        return Index((Block(1, {}),))

    def read(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """Rows that hold nothing but their number."""
        for first in range(start, stop, chunk):
            names = [f"{row:08d}" for row in range(first, min(first + chunk, stop))]
            yield pa.RecordBatch.from_arrays([pa.array(names, pa.string())], schema=self.schema)

    def decode(self, rows: pa.RecordBatch, draw: Draw) -> dict[str, np.ndarray]:
        """A number a row, which no layer reads: batches are counted by what they hold."""
        return {f"{self.layer.name}:row": np.zeros(rows.num_rows, np.float32)}


__all__ = ["SELF_FED", "RowlessSource"]
