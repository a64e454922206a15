"""CoSData layers: a dataframe column for each top (``source_class: "DataFrameSource"``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from cosdask.data.base import CHUNK, Source, window_rows
from cosdask.data.columns import cast_column, require_columns
from cosdask.data.cos_tops import CosTop, cos_top
from cosdask.data.dataframe import layer_table
from cosdask.data.draw import Draw
from cosdask.data.index import Index
from cosdask.data.tables import Table
from cosdask.errors import ConfigError, DataError
from cosdask.storage import FileStamp


class CosSource(Source):
    """The rows of a CoSData layer.

    Blobs are named by the layer's ``top`` list, columns by the ``top { name }`` blocks of ``cos_data_param``, which go
    with them by position. A column ``id`` gives the SampleIDs. Numbers are widened where a column holds others than the
    top's type says (an int64 for INT, a double for FLOAT). An array that is too short or too long, an empty cell and a
    text that is no number are errors that name row and column.
    """

    kind: ClassVar[str] = "DataFrameSource"

    @property
    def batch_size(self) -> int:
        """Rows of a batch on one device, as the layer says."""
        return int(self.layer.cos_data_param.batch_size)

    @cached_property
    def columns(self) -> dict[str, CosTop]:
        """How each top is made, by the blob's name.

        Raises:
            ConfigError: tops and their blocks do not go together, or a block's settings cannot work.
        """
        blocks, names = list(self.layer.cos_data_param.top), list(self.layer.top)
        if len(blocks) != len(names):
            raise ConfigError(
                f"{self.where}: {len(names)} tops and {len(blocks)} top blocks in cos_data_param; each top needs one",
                layer=self.layer.name,
            )
        if len(set(names)) != len(names):
            raise ConfigError(f"{self.where}: a top is named twice: {', '.join(names)}", layer=self.layer.name)
        resize = bool(self.options.get("resize"))
        return {
            name: cos_top(block, name, self.transform_phase, self.base_dir, self.where, resize)
            for name, block in zip(names, blocks, strict=True)
        }

    @cached_property
    def tops(self) -> dict[str, tuple[int, ...]]:
        """Caffe's shape of each top: (N, C, H, W), fewer axes with ``sample_num_axes``, (C, N) where transposed."""
        size = self.batch_size
        return {name: (*top.shape, size) if top.transpose else (size, *top.shape) for name, top in self.columns.items()}

    @cached_property
    def table(self) -> Table:
        """The rows as they are stored."""
        wanted = [top.column for top in self.columns.values()]
        return layer_table(self.layer, wanted, self.base_dir, self.where)

    @property
    def place(self) -> str:
        """Where the rows lie, for messages."""
        return self.table.place

    @cached_property
    def schema(self) -> pa.Schema:
        """``id``, and each column that a top takes, in the type that it is read as."""
        fields = {"id": pa.field("id", pa.string())}
        for top in self.columns.values():
            fields.setdefault(top.column, pa.field(top.column, top.arrow_type))
        return pa.schema(list(fields.values()), metadata={"layout": "HWC"})

    @property
    def stamps(self) -> list[tuple[str, FileStamp]] | None:
        """See :meth:`Source.stamps`."""
        return self.table.stamps

    def _count(self) -> Index:
        return self.table.count()

    def read(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.read`."""
        schema = self.schema
        for first, rows in self.table.read(self.index(), start, stop, schema.names, chunk):
            require_columns(rows.schema.names, self.place, [name for name in schema.names if name != "id"])
            arrays = []
            for field in schema:
                if field.name in rows.schema.names:
                    column = rows.column(field.name)
                    column = cast_column(column, field, first, self.place, self.table.textual)
                    arrays.append(column.fill_null("") if field.name == "id" and column.null_count else column)
                else:
                    arrays.append(pa.array([""] * rows.num_rows, field.type))
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def decode(self, rows: pa.RecordBatch, draw: Draw) -> dict[str, np.ndarray]:
        """See :meth:`Source.decode`; transposed tops are (n, C) here, :meth:`finish` transposes them."""
        found: dict[str, np.ndarray] = {}
        for number, (name, top) in enumerate(self.columns.items()):

            def bad(i: int, text: str, column: str = top.column) -> DataError:
                return self._bad(rows, i, int(draw.rows[i]), column, text)

            found.update(top.decode(name, rows.column(top.column), draw.fork(number), bad))
        return found

    def finish(self, raw: Mapping[str, Any], xp: ModuleType = np) -> dict[str, Any]:
        """See :meth:`Source.finish`."""
        return {name: top.finish(name, raw, xp) for name, top in self.columns.items()}

    @property
    def shuffle_window(self) -> int:
        """See :meth:`Source.shuffle_window`; arrays and pictures count as their tops are described."""
        return window_rows(sum(top.row_bytes for top in self.columns.values()), self.target_rows)

    def is_slow(self, rows: pa.RecordBatch) -> bool:
        """See :meth:`Source.is_slow`: encoded and resized images are."""
        return any(top.is_slow for top in self.columns.values())

    def _bad(self, rows: pa.RecordBatch, i: int, row: int, column: str, text: str) -> DataError:
        name = rows.column("id")[i].as_py()
        return DataError(
            f'{self.place}: row {row} (id "{name}"): {text}',
            path=self.place,
            row=row,
            id=name,
            column=column,
        )
