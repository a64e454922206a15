"""Bringing a table's columns to those of image sources: types widened, missing ones filled, wrong ones refused."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from cosdask.errors import DataError, did_you_mean

_REQUIRED = ("label", "data")


def require_columns(names: Iterable[str], place: str) -> None:
    """Refuse a table without the columns that every row needs.

    Raises:
        DataError: naming the missing column and those that are there.
    """
    found = list(names)
    for name in _REQUIRED:
        if name not in found:
            raise DataError(
                f"{place}: no column {name!r}; there are {', '.join(found)}.{did_you_mean(name, found)}",
                path=place,
                column=name,
            )


def standard_columns(rows: pa.RecordBatch, schema: pa.Schema, first: int, place: str, encoded: bool) -> pa.RecordBatch:
    """A record batch with exactly the columns of ``schema``.

    Args:
        rows: columns ``label`` (text or numbers) and ``data`` (binary, or text for its bytes); ``id``, ``channels``,
            ``height``, ``width``, ``encoded`` where they are there.
        schema: see :func:`cosdask.data.images.image_schema`.
        first: number of the first row, for messages.
        place: the source, for messages.
        encoded: what a missing ``encoded`` means.

    Raises:
        DataError: a required column is missing, or a column's type cannot be taken.
    """
    require_columns(rows.schema.names, place)
    arrays = []
    for field in schema:
        default = {"id": "", "encoded": encoded, "float_data": None}.get(field.name, 0)
        if field.name in rows.schema.names:
            column = _cast(rows.column(field.name), field, first, place)
            if field.name not in _REQUIRED and field.name != "float_data" and column.null_count:
                column = column.fill_null(default)
        else:
            column = pa.array([default] * rows.num_rows, field.type)
        arrays.append(column)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cast(column: pa.Array, field: pa.Field, first: int, place: str) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type == field.type:
        return column
    try:
        if field.name == "data" and pa.types.is_list(column.type):
            # Spark's JSON and some writers keep bytes as lists of (signed) numbers.
            return pa.array([bytes(byte & 0xFF for byte in cell) for cell in column.to_pylist()], pa.binary())
        if field.name == "label" and pa.types.is_floating(column.type):
            column = column.cast(pa.int64())
        return column.cast(field.type)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"{place}: rows from {first} on: the column {field.name!r} holds {column.type}, which cannot be read as "
            f"{field.type}: {error}",
            path=place,
            column=field.name,
            row=first,
        ) from error
