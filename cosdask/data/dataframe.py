"""Tables with CaffeOnSpark's columns: ``source_class: "ImageDataFrame"``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa

from cosdask.data.base import CHUNK
from cosdask.data.columns import require_columns, standard_columns
from cosdask.data.formats import open_table
from cosdask.data.images import ImageSource, image_schema
from cosdask.data.index import Index
from cosdask.data.selecting import SelectedTable, wanted_names
from cosdask.data.tables import Table
from cosdask.errors import ConfigError
from cosdask.proto import caffe_pb2
from cosdask.storage import FileStamp, resolve


def layer_table(layer: caffe_pb2.LayerParameter, wanted: list[str], base_dir: str | None, where: str) -> Table:
    """The table that a MemoryData or CoSData layer names, its columns selected as the layer says.

    Raises:
        ConfigError: no source, an unknown format, or an expression that cannot be used.
    """
    param = layer.cos_data_param if layer.type == "CoSData" else layer.memory_data_param
    if not param.source:
        raise ConfigError(f"{where}: it names no source", layer=layer.name)
    expressions = [] if layer.type == "CoSData" else list(layer.memory_data_param.dataframe_column_select)
    if expressions:
        wanted = wanted_names(expressions, where)
    table = open_table(param.dataframe_format, resolve(param.source, base_dir), wanted, where)
    return SelectedTable(table, expressions, where) if expressions else table


class DataFrameImages(ImageSource):
    """Rows of a table with the columns ``label`` and ``data``; ``id``, sizes and ``encoded`` where they are there.

    ``dataframe_format`` says how the table is stored, ``dataframe_column_select`` which columns it has.
    """

    kind: ClassVar[str] = "ImageDataFrame"

    @cached_property
    def table(self) -> Table:
        """The rows as they are stored."""
        return layer_table(self.layer, list(image_schema("HWC", pa.string()).names), self.base_dir, self.where)

    @property
    def place(self) -> str:
        """Where the rows lie, for messages."""
        return self.table.place

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of :meth:`read`; with ``float_data`` where the table has it."""
        return image_schema("HWC", pa.string(), floats="float_data" in self._names)

    @cached_property
    def _names(self) -> list[str]:
        """The table's columns."""
        names = list(self.table.schema.names)
        require_columns(names, self.place)
        return names

    @property
    def stamps(self) -> list[tuple[str, FileStamp]] | None:
        """See :meth:`Source.stamps`."""
        return self.table.stamps

    def _count(self) -> Index:
        return self.table.count()

    def read(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.read`."""
        schema = self.schema
        encoded = bool(self.layer.memory_data_param.image_encoded)
        for first, rows in self.table.read(self.index(), start, stop, schema.names, chunk):
            yield standard_columns(rows, schema, first, self.place, encoded, self.table.textual)

    def spec(self) -> dict[str, Any]:
        """See :meth:`Source.spec`; the columns go along, so that nobody looks them up again."""
        return {**super().spec(), "names": self._names}

    @classmethod
    def _from_spec(cls, spec: Mapping[str, Any]) -> DataFrameImages:
        source = super()._from_spec(spec)
        assert isinstance(source, DataFrameImages)
        source._names = list(spec["names"])
        return source
