"""What is converted: rows with an image and a label in CaffeOnSpark's columns, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cosdask.data import Source
from cosdask.data.images import ImageSource, image_schema
from cosdask.errors import DataError

#: Rows that are read, changed and written at a time.
CHUNK = 256


def row_schema(floats: bool = False) -> pa.Schema:
    """The columns of all rows here: id, label (text), channels, height, width, encoded, data (pixels interleaved).

    With ``floats`` there is ``float_data`` too (interleaved), which a row may have in place of data.
    """
    return image_schema("HWC", pa.string(), floats)


class Input(ABC):
    """A data set that can be converted. Instances pickle, and hold no open file.

    Attributes:
        place: where it lies, for messages.
    """

    place: str

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many rows there are."""

    @property
    def floats(self) -> bool:
        """Whether rows may hold floats."""
        return False

    @property
    def target(self) -> int:
        """Rows that make a part of moderate size."""
        return 4096

    @property
    def left_out(self) -> list[str]:
        """What is wrong with rows that were left out before any was read, and are not counted."""
        return []

    @abstractmethod
    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Rows ``start`` to ``stop`` in order, with the columns of :func:`row_schema`.

        Raises:
            DataError: a row that cannot be read, named by place and row.
        """

    @abstractmethod
    def state(self) -> Any:
        """JSON values that are others when the data are others."""

    def ranges(self, target: int) -> list[tuple[int, int]]:
        """Ranges of about ``target`` rows that together are all rows."""
        count = max(1, -(-self.rows // max(1, target)))
        return [(self.rows * k // count, self.rows * (k + 1) // count) for k in range(count)]

    def fingerprint(self) -> str:
        """A short text that is another one when the data are others."""
        text = json.dumps([type(self).__name__, self.place, self.rows, self.state()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class SourceInput(Input):
    """The rows of a source of images.

    Args:
        source: any source with images and labels.

    Raises:
        DataError: a source of other rows.
    """

    def __init__(self, source: Source) -> None:
        if not isinstance(source, ImageSource):
            raise DataError(f"{source.where}: its rows are not an image and a label each; these cannot be converted")
        self.source = source
        self.place = source.place

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.source.rows

    @property
    def floats(self) -> bool:
        """Whether rows may hold floats."""
        return "float_data" in self.source.schema.names

    @property
    def target(self) -> int:
        """See :attr:`Input.target`."""
        return self.source.target_rows

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """See :meth:`Input.read`."""
        for rows in self.source.read(start, stop, CHUNK):
            found = self.source.frame_rows(rows)
            if "float_data" in found.schema.names:
                # what a row holds as floats, it does not hold as bytes
                place = found.schema.get_field_index("data")
                data = pc.if_else(found.column("float_data").is_valid(), pa.scalar(None, pa.binary()), found["data"])
                found = found.set_column(place, "data", data)
            yield found

    def ranges(self, target: int) -> list[tuple[int, int]]:
        """See :meth:`Input.ranges`; along the blocks of the storage."""
        return self.source.index().ranges(target)

    def state(self) -> Any:
        """See :meth:`Input.state`: rows may change in place, and the layer says what is made of them."""
        stamps = [[name, found.size, found.changed] for name, found in self.source.stamps or []]
        return [self.source.index().to_json(), stamps, str(self.source.layer)]


def counted_by(rows: Input, client: Any) -> Input:
    """The same rows, counted by a client's workers, each its share, where that takes reading.

    Raises:
        StorageError: a worker does not see them.
        DataError: rows that cannot be counted.
    """
    if client is None or not isinstance(rows, SourceInput):
        return rows
    from cosdask.parallel.waiting import results_of

    (source,) = results_of([client.submit(_counted, rows.source, pure=False)])
    return SourceInput(source)


def _counted(source: Source) -> Source:
    """On a worker: the source with its index."""
    from cosdask.parallel.counting import counted

    counted(source).index()
    return source
