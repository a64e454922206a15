"""Tables with CaffeOnSpark's columns: ``source_class: "ImageDataFrame"``, in parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from cosdask.data.base import CHUNK
from cosdask.data.columns import require_columns, standard_columns
from cosdask.data.images import ImageSource, image_schema
from cosdask.data.index import Block, Index, kept_index
from cosdask.errors import ConfigError, DataError
from cosdask.storage import filesystem, missing, resolve, stamp

_GLOB = "*?["


class ParquetSource(ImageSource):
    """A parquet file, a folder of parts, or a glob; a block for each row group, files in the order of their names."""

    kind: ClassVar[str] = "ImageDataFrame"

    def __init__(
        self,
        layer: Any,
        phase: str = "TRAIN",
        base_dir: Any = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(layer, phase, base_dir, options)
        param = layer.memory_data_param
        if param.dataframe_format.lower() != "parquet":
            raise DataError(
                f'{self.where}: dataframe_format "{param.dataframe_format}" cannot be read yet; write parquet',
                layer=layer.name,
            )
        if len(param.dataframe_column_select):
            raise DataError(
                f"{self.where}: dataframe_column_select cannot be evaluated yet; store the columns under their names "
                "(id, label, channels, height, width, encoded, data)",
                layer=layer.name,
            )

    @property
    def place(self) -> str:
        """Where the rows lie, for messages."""
        if not self.layer.memory_data_param.source:
            raise ConfigError(f"{self.where}: it names no source", layer=self.layer.name)
        return resolve(self.layer.memory_data_param.source, self.base_dir)

    @property
    def schema(self) -> pa.Schema:
        """The columns of :meth:`read`."""
        return image_schema("HWC", pa.string())

    @cached_property
    def files(self) -> list[str]:
        """The parts, in the order of their names."""
        fs, path = filesystem(self.place)
        if any(sign in path for sign in _GLOB) and not fs.exists(path):
            found = [name for name in fs.glob(path) if fs.isfile(name)]
        elif fs.isdir(path):
            found = [name for name in fs.find(path) if not _hidden(name[len(path) :])]
        else:
            found = [path] if fs.exists(path) else []
            if not found:
                raise missing(self.place, "parquet file or folder")
        if not found:
            raise DataError(f"{self.place}: no parquet parts there", path=self.place)
        return [fs.unstrip_protocol(name) for name in sorted(found)]

    def _count(self) -> Index:
        return kept_index(self.kind, [(name, stamp(name)) for name in self.files], self._look)

    def _look(self) -> Index:
        """The row groups, from the files' footers."""
        blocks: list[Block] = []
        for name in self.files:
            with self._open(name) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            blocks += [Block(size, {"file": name, "group": group}) for group, size in enumerate(sizes) if size]
        if not blocks:
            raise DataError(f"{self.place}: the parquet holds no rows", path=self.place)
        return Index(tuple(blocks))

    def _open(self, name: str) -> pq.ParquetFile:
        fs, path = filesystem(name)
        try:
            return pq.ParquetFile(fs.open(path, "rb"))
        except FileNotFoundError as error:
            raise missing(name) from error
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{name}: not a readable parquet file: {error}", path=name) from error

    def read(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.read`."""
        while start < stop:
            number, skip = self.index().locate(start)
            block = self.index().blocks[number]
            end = min(stop, self.index().starts[number + 1])
            position = start
            for rows in self._group(block, skip, end - start, chunk):
                yield standard_columns(rows, self.schema, position, self.place, self._encoded_default)
                position += rows.num_rows
            if position != end:
                raise self.changed(end - start, position - start)
            start = end

    @property
    def _encoded_default(self) -> bool:
        return bool(self.layer.memory_data_param.image_encoded)

    def _group(self, block: Block, skip: int, count: int, chunk: int) -> Iterator[pa.RecordBatch]:
        """``count`` rows of a row group from the ``skip``-th on."""
        name = block.place["file"]
        wanted = set(self.schema.names)
        try:
            with self._open(name) as file:
                require_columns(file.schema_arrow.names, name)
                columns = [column for column in file.schema_arrow.names if column in wanted]
                for rows in file.iter_batches(chunk, row_groups=[block.place["group"]], columns=columns):
                    part = rows.slice(skip, count)
                    skip = max(0, skip - rows.num_rows)
                    if part.num_rows:
                        yield part
                        count -= part.num_rows
                    if not count:
                        return
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, DataError):
                raise
            group = block.place["group"]
            raise DataError(f"{name}: row group {group} cannot be read: {error}", path=name) from error


def _hidden(path: str) -> bool:
    """Spark leaves ``_SUCCESS``, checksums and unfinished parts beside the real ones."""
    return any(part.startswith(("_", ".")) for part in path.split("/") if part)
