"""Rows that are in memory, or in Arrow files that workers wrote, for any data layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from cosdask.data.base import Source
from cosdask.data.columns import PRINTED_HINT, is_printed
from cosdask.data.cos import CosSource
from cosdask.data.dataframe import DataFrameImages
from cosdask.data.staged import StagedTable
from cosdask.data.tables import MemoryTable
from cosdask.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd


class _Framed(Source):
    """What sources over given rows have in common: their table does not come from the layer."""

    table: Any

    def __init__(
        self,
        layer: Any,
        phase: str = "TRAIN",
        base_dir: Any = None,
        options: Mapping[str, Any] | None = None,
        frame: pd.DataFrame | pa.Table | None = None,
        files: Sequence[str] = (),
        staged: StagedTable | None = None,
    ) -> None:
        super().__init__(layer, phase, base_dir, options)
        if (frame is not None) + bool(files) + (staged is not None) != 1:
            raise ConfigError("a FrameSource takes either a frame or the names of Arrow files")
        if frame is not None:
            self.table = MemoryTable(arrow_table(frame))
        else:
            self.table = staged or StagedTable.of_files([str(name) for name in files])

    @property
    def in_memory(self) -> bool:
        """Whether the rows are in this process only."""
        return isinstance(self.table, MemoryTable)

    def spec(self) -> dict[str, Any]:
        """See :meth:`Source.spec`.

        Raises:
            ConfigError: the rows are in memory, which no other process can see.
        """
        table = self._table_spec()
        return {**super().spec(), "table": table}

    def _table_spec(self) -> dict[str, Any]:
        if self.in_memory:
            raise ConfigError("rows in memory cannot be named to another process; write them as Arrow files first")
        spec: dict[str, Any] = self.table.spec()
        return spec

    @classmethod
    def _build(cls, layer: Any, spec: Mapping[str, Any]) -> Source:
        table = StagedTable.from_spec(spec["table"])
        return cls(layer, spec["phase"], spec["base_dir"], spec["options"], staged=table)


class FrameSource(_Framed, DataFrameImages):
    """A table as a source of images: a pandas frame or an Arrow table in memory, or Arrow IPC files on local disks.

    Args:
        layer: the data layer whose tops, batch size and transform apply; its ``source`` is not looked at.
        phase: ``"TRAIN"`` or ``"TEST"``.
        base_dir: folder of the prototxt, for a mean file.
        options: see :class:`Source`.
        frame: rows in memory.
        files: Arrow IPC files (file format) with the rows, in this order; a block for each record batch.
        staged: rows that workers have written.

    Raises:
        ConfigError: neither or both of ``frame`` and ``files``.
    """

    kind: ClassVar[str] = "frame"

    @property
    def shuffle_piece(self) -> int:
        """See :meth:`Source.shuffle_piece`: memory, and files mapped into it, can be read from anywhere."""
        return 64


class CosFrameSource(_Framed, CosSource):
    """A table as the source of a CoSData layer; see :class:`FrameSource`."""

    kind: ClassVar[str] = "cos_frame"


def frame_source(layer: Any, *arguments: Any, **keywords: Any) -> FrameSource | CosFrameSource:
    """The source of given rows for a data layer; arguments as of :class:`FrameSource`.

    A CoSData layer's columns are its tops' (see :class:`cosdask.data.cos.CosSource`), those of every other layer
    CaffeOnSpark's ``label`` and ``data``.

    Raises:
        ConfigError: a layer whose rows have no columns of their own (HDF5Data, WindowData).
    """
    if layer.type == "CoSData":
        return CosFrameSource(layer, *arguments, **keywords)
    if layer.type in ("HDF5Data", "WindowData"):
        raise ConfigError(
            f'data layer "{layer.name}": a dataframe cannot take the place of {layer.type} rows; use a CoSData layer, '
            "whose tops are columns",
            layer=layer.name,
        )
    return FrameSource(layer, *arguments, **keywords)


def arrow_table(frame: pd.DataFrame | pa.Table) -> pa.Table:
    """A frame as an Arrow table, without pandas' index and metadata.

    Raises:
        DataError: Dask has turned bytes or arrays into text, or a column holds what Arrow cannot.
    """
    if not isinstance(frame, pa.Table):
        _refuse_text(frame)
        try:
            frame = pa.Table.from_pandas(frame, preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(f"the dataframe has a column that Arrow cannot take: {error}") from error
    return frame.replace_schema_metadata(None)


def _refuse_text(frame: pd.DataFrame) -> None:
    """Dask turns object columns of arrays and bytes into text unless they have Arrow types: say so."""
    for name in frame.columns:
        cells = frame[name]
        if len(cells) and is_printed(cells.iloc[0]) and _looks_like_data(str(name), cells.iloc[0]):
            raise DataError(f"the column {str(name)!r}: {PRINTED_HINT}", column=str(name))


def _looks_like_data(name: str, cell: str) -> bool:
    """Texts may begin with a bracket; bytes and arrays as text have their own look."""
    return name == "data" or cell.startswith(("b'", 'b"', "array(")) or _is_numbers(cell)


def _is_numbers(cell: str) -> bool:
    inner = cell.strip("[] \n.0123456789-+e,")
    return cell.startswith("[") and (not inner or not inner.strip("[].0123456789-+e, \n"))
