"""Writing a part of a data set as a file of its own: SequenceFile, parquet, ORC, JSON lines, HDF5."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq

from cosdask.convert.rows import row_schema
from cosdask.data.hadoop import COMPRESSIONS, RowKey, SequenceWriter, pair_key, row_key, write_bytes
from cosdask.data.hadoop.codecs import codec_by_name
from cosdask.data.table_files import write_part
from cosdask.errors import ConfigError, DataError, did_you_mean
from cosdask.storage import atomic_output

#: Bytes of a row group, at most, about.
_GROUP_BYTES = 32 << 20
KEYS = ("tuple6", "tuple2")


@dataclass(frozen=True)
class Form:
    """How rows are written.

    Attributes:
        compression: of SequenceFiles: ``"none"``, ``"record"`` or ``"block"``.
        codec: of compressed SequenceFiles.
        key: of SequenceFiles: ``"tuple6"`` (all columns), or ``"tuple2"`` (id and label of encoded images).
        floats: whether rows may hold floats.
        plain: the columns that a table has in place of ours, as (ours, theirs, type); none for ours.

    Raises:
        ConfigError: an unknown compression, codec or key.
    """

    compression: str = "none"
    codec: str = "default"
    key: str = "tuple6"
    floats: bool = False
    plain: tuple[tuple[str, str, str], ...] = ()

    def __post_init__(self) -> None:
        for name, known in (("compression", COMPRESSIONS), ("key", KEYS)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f'no {name} "{value}".{did_you_mean(value, known)} There are {", ".join(known)}')
        codec_by_name(self.codec)

    @property
    def schema(self) -> pa.Schema:
        """The columns of tables."""
        if not self.plain:
            return row_schema(self.floats).remove_metadata()
        return pa.schema([(name, pa.type_for_alias(kind)) for _, name, kind in self.plain])

    def table(self, rows: pa.RecordBatch) -> pa.Table:
        """Rows with the columns of tables."""
        if not self.plain:
            return pa.Table.from_batches([rows]).cast(self.schema)
        columns = [rows.column(ours) for ours, _, _ in self.plain]
        try:
            return pa.table(
                [column.cast(field.type) for column, field in zip(columns, self.schema, strict=True)], self.schema
            )
        except pa.ArrowInvalid as error:
            raise DataError(f"rows that do not fit the columns {', '.join(self.schema.names)}: {error}") from error


Batches = Iterator[pa.RecordBatch]


def write_file(kind: str, url: str, batches: Batches, form: Form) -> int:
    """Write one part, which is there whole or not at all.

    Args:
        kind: one of :data:`PART_KINDS`.
        url: its name, local or a URL.
        batches: rows with the columns of :func:`~cosdask.convert.rows.row_schema`.
        form: how they are written.

    Returns:
        The number of rows.

    Raises:
        DataError: rows that the format cannot hold.
        StorageError: the part cannot be written.
    """
    if kind == "json":
        tables = [form.table(rows) for rows in batches]
        whole = pa.concat_tables(tables) if tables else form.schema.empty_table()
        return write_part(whole.to_pandas(types_mapper=_arrow_dtype), url)
    with atomic_output(url) as file:
        return _WRITERS[kind](file, batches, form)


def _arrow_dtype(kind: pa.DataType) -> Any:
    import pandas as pd

    return pd.ArrowDtype(kind)


def _write_sequence(file: IO[bytes], batches: Batches, form: Form) -> int:
    with SequenceWriter(file, compression=form.compression, codec=form.codec) as writer:
        for rows in batches:
            for row in rows.to_pylist():
                if row["data"] is None:
                    raise DataError(f'row "{row["id"]}" holds floats, which SequenceFiles of images cannot')
                key = RowKey(*(row[name] for name in RowKey._fields))
                if form.key == "tuple2" and not row["encoded"]:
                    raise DataError(f'row "{row["id"]}" is no encoded image; its sizes need a key of the form tuple6')
                data = pair_key(key.id, key.label) if form.key == "tuple2" else row_key(key)
                writer.append(write_bytes(data), write_bytes(row["data"]))
        return writer.rows


def _write_table(file: IO[bytes], batches: Batches, form: Form, opened: Callable[..., Any]) -> int:
    """Row groups or stripes of a moderate size."""
    count = size = 0
    waiting: list[pa.Table] = []
    with opened(file, form.schema) as writer:
        for rows in batches:
            waiting.append(form.table(rows))
            count += rows.num_rows
            size += rows.nbytes
            if size >= _GROUP_BYTES:
                _write_group(writer, waiting)
                waiting, size = [], 0
        if waiting or not count:
            _write_group(writer, waiting or [form.schema.empty_table()])
    return count


def _write_group(writer: Any, tables: list[pa.Table]) -> None:
    whole = pa.concat_tables(tables).combine_chunks()
    if isinstance(writer, pq.ParquetWriter):
        writer.write_table(whole, row_group_size=max(1, whole.num_rows))
    else:
        writer.write(whole)


def _write_parquet(file: IO[bytes], batches: Batches, form: Form) -> int:
    return _write_table(file, batches, form, pq.ParquetWriter)


def _write_orc(file: IO[bytes], batches: Batches, form: Form) -> int:
    return _write_table(file, batches, form, lambda sink, schema: orc.ORCWriter(sink))


def _write_hdf5(file: IO[bytes], batches: Batches, form: Form) -> int:
    """Caffe's HDF5Data: data (N, C, H, W) of bytes or floats, label (N,) of floats; and the ids as texts."""
    images: Any = None
    count = 0
    with h5py.File(file, "w") as target:
        for rows in batches:
            pixels = _planes(rows)
            if images is None:
                images = _datasets(target, pixels)
            if pixels.shape[1:] != images.shape[1:] or pixels.dtype != images.dtype:
                raise DataError(f"images of {pixels.shape[1:]} {pixels.dtype} after {images.shape[1:]} {images.dtype}")
            more = len(pixels)
            for name, values in (("data", pixels), ("label", _numbers(rows)), ("id", rows.column("id").to_pylist())):
                target[name].resize(count + more, axis=0)
                target[name][count:] = values
            count += more
        if images is None:
            _datasets(target, np.zeros((0, 1, 1, 1), np.uint8))
    return count


def _datasets(target: h5py.File, pixels: np.ndarray) -> Any:
    images = target.create_dataset(
        "data", (0, *pixels.shape[1:]), pixels.dtype, maxshape=(None, *pixels.shape[1:]), chunks=(1, *pixels.shape[1:])
    )
    target.create_dataset("label", (0,), np.float32, maxshape=(None,), chunks=(1024,))
    target.create_dataset("id", (0,), h5py.string_dtype(), maxshape=(None,), chunks=(1024,))
    return images


def _planes(rows: pa.RecordBatch) -> np.ndarray:
    """Pixels of rows of one size: uint8 or float32 (n, C, H, W)."""
    found = []
    for row in rows.to_pylist():
        size = row["height"], row["width"], row["channels"]
        whole = row["data"] is not None
        pixels = np.frombuffer(row["data"], np.uint8) if whole else np.asarray(row["float_data"], np.float32)
        found.append(pixels.reshape(size).transpose(2, 0, 1))
    return np.stack(found)


def _numbers(rows: pa.RecordBatch) -> np.ndarray:
    try:
        return np.array([float(label) for label in rows.column("label").to_pylist()], np.float32)
    except ValueError as error:
        raise DataError(f"a label that is no number: {error}") from error


_WRITERS: dict[str, Callable[[IO[bytes], Batches, Form], int]] = {
    "sequence": _write_sequence,
    "parquet": _write_parquet,
    "orc": _write_orc,
    "hdf5": _write_hdf5,
}
#: Formats that are folders of part files, with the ending of the parts.
PART_KINDS = {"sequence": "", "parquet": ".parquet", "json": ".json", "orc": ".orc", "hdf5": ".h5"}
