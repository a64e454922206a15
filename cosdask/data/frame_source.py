"""Rows that are in memory, or in Arrow files that workers wrote: the same columns as ImageDataFrame's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa

from cosdask.data.base import CHUNK, Source
from cosdask.data.columns import standard_columns
from cosdask.data.images import ImageSource, image_schema
from cosdask.data.index import Block, Index
from cosdask.errors import ConfigError, DataError, StorageError
from cosdask.storage import local_path, missing


class FrameSource(ImageSource):
    """A table as a source: a pandas frame or an Arrow table in memory, or Arrow IPC files on a local disk.

    Args:
        layer: the data layer whose tops, batch size and transform apply; its ``source`` is not looked at.
        phase: ``"TRAIN"`` or ``"TEST"``.
        base_dir: folder of the prototxt, for a mean file.
        options: see :class:`Source`.
        frame: rows in memory.
        files: Arrow IPC files (file format) with the rows, in this order; a block for each record batch.

    Raises:
        ConfigError: neither or both of ``frame`` and ``files``.
    """

    kind: ClassVar[str] = "frame"

    def __init__(
        self,
        layer: Any,
        phase: str = "TRAIN",
        base_dir: Any = None,
        options: Mapping[str, Any] | None = None,
        frame: pd.DataFrame | pa.Table | None = None,
        files: Sequence[str] = (),
    ) -> None:
        super().__init__(layer, phase, base_dir, options)
        if (frame is None) == (not files):
            raise ConfigError("a FrameSource takes either a frame or the names of Arrow files")
        self.files = [str(name) for name in files]
        self.table: pa.Table | None = None
        if frame is not None:
            self.table = arrow_table(frame).combine_chunks()

    @property
    def place(self) -> str:
        """Where the rows lie, for messages."""
        return "the dataframe" if self.table is not None else ", ".join(self.files[:1]) + " ..." * (len(self.files) > 1)

    @property
    def schema(self) -> pa.Schema:
        """The columns of :meth:`read`."""
        names = self._first_names()
        return image_schema("HWC", pa.string(), floats="float_data" in names)

    @property
    def shuffle_piece(self) -> int:
        """See :meth:`Source.shuffle_piece`: memory can be read from anywhere."""
        return 64

    def _first_names(self) -> list[str]:
        if self.table is not None:
            return list(self.table.schema.names)
        if not hasattr(self, "_names"):
            with _open(self.files[0]) as file:
                self._names: list[str] = list(file.schema.names)
        return self._names

    def _count(self) -> Index:
        blocks: list[Block] = []
        if self.table is not None:
            size = self.target_rows
            starts = range(0, self.table.num_rows, size)
            blocks = [Block(min(size, self.table.num_rows - start), {"start": start}) for start in starts]
        for number, name in enumerate(self.files):
            with _open(name) as file:
                sizes = [file.get_batch(i).num_rows for i in range(file.num_record_batches)]
            blocks += [Block(rows, {"file": number, "batch": i}) for i, rows in enumerate(sizes) if rows]
        return Index(tuple(blocks))

    def read(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.read`."""
        encoded = bool(self.layer.memory_data_param.image_encoded)
        schema = self.schema
        while start < stop:
            number, skip = self.index().locate(start)
            block = self.index().blocks[number]
            end = min(stop, start + chunk, self.index().starts[number + 1])
            yield standard_columns(self._slice(block, skip, end - start), schema, start, self.place, encoded)
            start = end

    def _slice(self, block: Block, skip: int, count: int) -> pa.RecordBatch:
        if self.table is not None:
            part = self.table.slice(block.place["start"] + skip, count).combine_chunks()
            return part.to_batches()[0]
        with _open(self.files[block.place["file"]]) as file:
            return file.get_batch(block.place["batch"]).slice(skip, count)

    def spec(self) -> dict[str, Any]:
        """See :meth:`Source.spec`.

        Raises:
            ConfigError: the rows are in memory, which no other process can see.
        """
        if self.table is not None:
            raise ConfigError("rows in memory cannot be named to another process; write them as Arrow files first")
        return {**super().spec(), "files": self.files}

    @classmethod
    def _build(cls, layer: Any, spec: Mapping[str, Any]) -> Source:
        return cls(layer, spec["phase"], spec["base_dir"], spec["options"], files=spec["files"])


def _open(name: str) -> pa.RecordBatchFileReader:
    """An Arrow IPC file, mapped into memory: reading a slice costs no copy."""
    path = local_path(name)
    if path is None:
        raise StorageError(f"{name}: Arrow files of rows are read from local disks", path=name)
    if not path.exists():
        raise missing(name)
    try:
        return pa.ipc.open_file(pa.memory_map(str(path)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{name}: not a readable Arrow file: {error}", path=name) from error


def arrow_table(frame: pd.DataFrame | pa.Table) -> pa.Table:
    """A frame as an Arrow table, without pandas' index and metadata.

    Raises:
        DataError: Dask has turned bytes or arrays into text.
    """
    _refuse_text(frame)
    if isinstance(frame, pd.DataFrame):
        frame = pa.Table.from_pandas(frame, preserve_index=False)
    return frame.replace_schema_metadata(None)


def _refuse_text(frame: pd.DataFrame | pa.Table) -> None:
    """Dask turns object columns of arrays and bytes into text unless they have Arrow types: say so."""
    if frame is None or "data" not in (frame.columns if isinstance(frame, pd.DataFrame) else frame.schema.names):
        return
    if not isinstance(frame, pd.DataFrame) or not len(frame):
        return
    first = frame["data"].iloc[0]
    if isinstance(first, str) and first.startswith(("b'", 'b"', "[", "array(")):
        raise DataError(
            "the column 'data' holds the printed form of bytes or arrays: Dask turned the column into text. Give it an "
            'Arrow type (pd.ArrowDtype(pa.binary())), or set dask.config "dataframe.convert-string" to False',
            column="data",
        )
