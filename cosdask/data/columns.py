"""Bringing a table's columns to those of sources: types widened, missing ones filled, wrong ones refused."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from cosdask.errors import DataError, did_you_mean

_REQUIRED = ("label", "data")
#: What the printed form of bytes or arrays begins with.
_PRINTED = ("b'", 'b"', "[", "array(")


def require_columns(names: Iterable[str], place: str, required: Iterable[str] = _REQUIRED) -> None:
    """Refuse a table without the columns that every row needs.

    Raises:
        DataError: naming the missing column and those that are there.
    """
    found = list(names)
    for name in required:
        if name not in found:
            raise DataError(
                f"{place}: no column {name!r}; there are {', '.join(found)}.{did_you_mean(name, found)}",
                path=place,
                column=name,
            )


def standard_columns(
    rows: pa.RecordBatch, schema: pa.Schema, first: int, place: str, encoded: bool, textual: bool = False
) -> pa.RecordBatch:
    """A record batch with exactly the columns of ``schema``.

    Args:
        rows: columns ``label`` (text or numbers) and ``data`` (binary, or text for its bytes); ``id``, ``channels``,
            ``height``, ``width``, ``encoded`` where they are there.
        schema: see :func:`cosdask.data.images.image_schema`.
        first: number of the first row, for messages.
        place: the source, for messages.
        encoded: what a missing ``encoded`` means.
        textual: whether bytes may be base64 text.

    Raises:
        DataError: a required column is missing, or a column's type cannot be taken.
    """
    require_columns(rows.schema.names, place)
    arrays = []
    for field in schema:
        default = {"id": "", "encoded": encoded, "float_data": None}.get(field.name, 0)
        if field.name in rows.schema.names:
            column = cast_column(rows.column(field.name), field, first, place, textual)
            if field.name not in _REQUIRED and field.name != "float_data" and column.null_count:
                column = column.fill_null(default)
        else:
            column = pa.array([default] * rows.num_rows, field.type)
        arrays.append(column)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def cast_column(column: pa.Array, field: pa.Field, first: int, place: str, textual: bool = False) -> pa.Array:
    """A column as ``field`` wants it: numbers widened, texts parsed, lists of bytes made binary.

    Raises:
        DataError: the column's type, or a row's value, cannot be taken; names the column, and the row where it is one.
    """
    try:
        return _cast(column, field, textual)
    except _REFUSED as error:
        raise _cannot(column, field, first, place, textual, error) from error


_REFUSED = (pa.ArrowException, TypeError, ValueError)


def _cast(column: pa.Array, field: pa.Field, textual: bool) -> pa.Array:
    # an image's label is a whole number, which is kept as text; pandas makes doubles of those with a gap
    if field.name == "label" and pa.types.is_string(field.type) and pa.types.is_floating(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if column.type == field.type:
        return column
    if pa.types.is_binary(field.type):
        return _binary(column, textual)
    if pa.types.is_struct(field.type) and pa.types.is_struct(column.type):
        return _struct(column, field, textual)
    # a float32 of a double is what a blob holds; whole numbers and texts must keep their value
    return column.cast(field.type, safe=not (_is_float(column.type) and _is_float(field.type)))


def _cannot(column: pa.Array, field: pa.Field, first: int, place: str, textual: bool, error: Exception) -> DataError:
    """The error for a column: about the first row at fault where its type could be taken, else about them all."""
    where: dict[str, object] = {"path": place, "column": field.name}
    rows = f"rows from {first} on"
    try:
        _cast(column.slice(0, 0), field, textual)
    except _REFUSED:
        return DataError(
            f"{place}: {rows}: the column {field.name!r} holds {column.type}, which cannot be read as {field.type}: "
            f"{error}{_printed(column)}",
            **where,
        )
    for i in range(len(column)):
        try:
            _cast(column.slice(i, 1), field, textual)
        except _REFUSED as own:
            error, rows = own, f"row {first + i}"
            where["row"] = first + i
            break
    return DataError(
        f"{place}: {rows}: the column {field.name!r} holds {column.type}, and a value of it cannot be read as "
        f"{field.type}: {error}",
        **where,
    )


def _is_float(kind: pa.DataType) -> bool:
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_floating(kind))


def _binary(column: pa.Array, textual: bool) -> pa.Array:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _bytes_of_numbers(column)
    if textual and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return pa.array([_bytes_of_text(cell) for cell in column.to_pylist()], pa.binary())
    return column.cast(pa.binary())


def _bytes_of_text(cell: str | None) -> bytes | None:
    """What base64 text stands for; other text stands for its own bytes."""
    if cell is None:
        return None
    try:
        return base64.b64decode(cell, validate=True)
    except (binascii.Error, ValueError):
        return cell.encode()


def _bytes_of_numbers(column: pa.Array) -> pa.Array:
    """Bytes that are kept as lists of whole numbers, signed or not, as some writers do."""
    whole = column.cast(pa.list_(column.type.value_type))
    values = whole.flatten()
    if values.null_count:
        raise ValueError("a list of bytes has gaps")
    numbers = values.cast(pa.int64()).to_numpy()
    if numbers.size and not (numbers.min() >= -128 and numbers.max() <= 255):
        raise ValueError(f"numbers from {numbers.min()} to {numbers.max()} are no bytes")
    lengths = whole.value_lengths().fill_null(0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    pixels = (numbers & 0xFF).astype(np.uint8)
    valid = whole.is_valid().buffers()[1] if whole.null_count else None
    return pa.Array.from_buffers(pa.binary(), len(whole), [valid, pa.py_buffer(offsets), pa.py_buffer(pixels)])


def _struct(column: pa.Array, field: pa.Field, textual: bool) -> pa.Array:
    """A struct with just the fields of ``field``, cast each by itself; a null struct has null fields."""
    names = [column.type.field(at).name for at in range(column.type.num_fields)]
    missing = [part.name for part in field.type if part.name not in names]
    if missing:
        raise ValueError(f"it has no field {missing[0]!r}, only {', '.join(names)}")
    parts = [_cast(column.flatten()[names.index(part.name)], part, textual) for part in field.type]
    return pa.StructArray.from_arrays(parts, fields=list(field.type))


def _printed(column: pa.Array) -> str:
    """A hint where text seems to be the printed form of an array."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) or not len(column):
        return ""
    cell = next((cell for cell in column.to_pylist() if cell), "")
    return f" {PRINTED_HINT}" if cell.startswith(_PRINTED) else ""


#: What to do about a column that Dask made text of.
PRINTED_HINT = (
    "It holds the printed form of bytes or arrays: Dask turned the column into text. Give it an Arrow type "
    "(pd.ArrowDtype(pa.binary()), pd.ArrowDtype(pa.list_(pa.float32()))), or set dask.config "
    '"dataframe.convert-string" to False'
)


def is_printed(cell: object) -> bool:
    """Whether a cell is the printed form of bytes or an array."""
    return isinstance(cell, str) and cell.startswith(_PRINTED)
