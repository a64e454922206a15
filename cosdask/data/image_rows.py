"""Rows of image sources as the feed carries them: views of the bytes where they lie, nothing copied before the crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

#: The bytes of one image; a view of an Arrow buffer or of a mapped file.
Buffer = bytes | memoryview


@dataclass(frozen=True)
class ImageRows:
    """Some rows, a list entry each.

    Attributes:
        layout: how raw pixels lie: ``"CHW"`` (planes) or ``"HWC"`` (interleaved).
        names: SampleIDs, as text or as the bytes of a key.
        labels: whole numbers or text; None where there is none.
        sizes: (channels, height, width) as the row says.
        encoded: whether ``data`` is an encoded image.
        data: the bytes of the image; None where there are none.
        floats: float32 pixels in place of ``data`` where the source holds such.
    """

    layout: str
    names: list[Any]
    labels: list[Any]
    sizes: list[tuple[int, int, int]]
    encoded: list[bool]
    data: list[Buffer | None]
    floats: list[np.ndarray | None] | None = None

    @property
    def num_rows(self) -> int:
        """How many rows these are."""
        return len(self.names)

    @property
    def ids(self) -> list[str]:
        """The SampleIDs as text."""
        return [n.decode("utf-8", "backslashreplace") if isinstance(n, bytes) else n for n in self.names]

    def slice(self, offset: int, length: int) -> ImageRows:
        """Rows ``offset`` to ``offset + length``, or to the end."""
        if offset == 0 and length >= self.num_rows:
            return self
        part = slice(offset, offset + length)
        return self._replaced(lambda column: column[part])

    @classmethod
    def gather(cls, parts: Sequence[ImageRows], take: np.ndarray) -> ImageRows:
        """Some rows of several parts in a new order; see :func:`cosdask.data.rows.gather`."""
        numbers = take.tolist()
        names = ("names", "labels", "sizes", "encoded", "data")
        columns = {name: [cell for part in parts for cell in getattr(part, name)] for name in names}
        floats = None
        if parts[0].floats is not None:
            floats = [cell for part in parts for cell in part.floats or []]
        whole = cls(parts[0].layout, floats=floats, **columns)
        return whole._replaced(lambda column: [column[i] for i in numbers])

    def _replaced(self, change: Any) -> ImageRows:
        return ImageRows(
            self.layout,
            change(self.names),
            change(self.labels),
            change(self.sizes),
            change(self.encoded),
            change(self.data),
            None if self.floats is None else change(self.floats),
        )

    @classmethod
    def of(cls, rows: pa.RecordBatch) -> ImageRows:
        """The rows of a record batch with the columns of :func:`cosdask.data.images.image_schema`."""
        sizes = [rows.column(name).to_pylist() for name in ("channels", "height", "width")]
        return cls(
            layout=rows.schema.metadata[b"layout"].decode(),
            names=rows.column("id").to_pylist(),
            labels=rows.column("label").to_pylist(),
            sizes=list(zip(*sizes, strict=True)),
            encoded=rows.column("encoded").to_pylist(),
            data=_views(rows.column("data")),
            floats=_arrays(rows.column("float_data")) if "float_data" in rows.schema.names else None,
        )


def _views(column: pa.Array) -> list[Buffer | None]:
    """Views of a binary column's cells."""
    _, ends, values = column.buffers()
    if values is None:
        return [None if cell is None else b"" for cell in column.to_pylist()]
    offsets = np.frombuffer(ends, np.int32, len(column) + 1, column.offset * 4).tolist()
    view = memoryview(values)
    cells: list[Buffer | None] = [view[offsets[i] : offsets[i + 1]] for i in range(len(column))]
    if column.null_count:
        cells = [cell if valid else None for cell, valid in zip(cells, column.is_valid().to_pylist(), strict=True)]
    return cells


def _arrays(column: pa.Array) -> list[np.ndarray | None]:
    """The cells of a column of lists of floats."""
    return [cell.values.to_numpy() if cell.is_valid else None for cell in column]
