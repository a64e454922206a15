"""Rows and labels as scikit-learn's users have them, and as data layers read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cosdask.errors import DataError
from cosdask.nn.layer import Shape, count
from cosdask.nn.partition import image_table


def is_dask(rows: Any) -> bool:
    """Whether these are rows of a dask collection: an array, a dataframe, a series."""
    return hasattr(rows, "__dask_graph__") and hasattr(rows, "to_delayed")


def has_column(rows: Any, column: str) -> bool:
    """Whether these are rows of a dataframe with a column that is fed as it is: images, or arrays."""
    return hasattr(rows, "columns") and column in rows.columns and not _is_number(rows.dtypes[column])


def _is_number(dtype: Any) -> bool:
    return bool(pd.api.types.is_numeric_dtype(dtype))


def shaped(rows: np.ndarray, row: Shape) -> np.ndarray:
    """Rows as the net takes them.

    Raises:
        DataError: where a row has another number of values, or the same in another order of its axes.
    """
    found, wanted = ([size for size in shape if size != 1] for shape in (rows.shape[1:], row))
    flat = len(found) < 2 or len(wanted) < 2
    if count(rows.shape[1:]) != count(row) or not (flat or found == wanted):
        hint = (
            " Caffe's images are (channels, height, width): transpose them." if sorted(found) == sorted(wanted) else ""
        )
        raise DataError(f"a row of shape {rows.shape[1:]} cannot fill the net's input of shape {row}.{hint}")
    return np.ascontiguousarray(rows, np.float32).reshape(len(rows), *row)


def row_table(rows: np.ndarray, labels: np.ndarray, images: bool) -> pa.Table:
    """Rows as the columns that a data layer reads.

    Args:
        rows: float32 (n, ...) in Caffe's layout.
        labels: numbers of classes, int (n,).
        images: for a layer of images, whose transform applies, rather than of plain numbers.
    """
    n = len(rows)
    if not images:
        return pa.table({"data": _lists(rows.reshape(n, count(rows.shape[1:]))), "label": pa.array(labels, pa.int64())})
    channels, height, width = rows.shape[1:]
    sizes = {"channels": channels, "height": height, "width": width}
    columns: dict[str, Any] = {
        "label": pa.array([str(label) for label in labels.tolist()]),
        "data": pa.array([b""] * n, pa.binary()),
        # what a row holds lies interleaved, as in CaffeOnSpark's frames
        "float_data": _lists(rows.transpose(0, 2, 3, 1).reshape(n, channels * height * width)),
    }
    return pa.table({**columns, **{name: pa.array([size] * n, pa.int32()) for name, size in sizes.items()}})


def _lists(matrix: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(matrix, np.float32).ravel())
    offsets = np.arange(0, matrix.size + 1, max(1, matrix.shape[1]), dtype=np.int64)
    if matrix.size < 2**31:
        return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat)
    return pa.LargeListArray.from_arrays(pa.array(offsets), flat)


def column_table(frame: pd.DataFrame, column: str, labels: np.ndarray, row: Shape, images: bool) -> pa.Table:
    """The column of a dataframe as the columns that a data layer reads; arguments as of :func:`row_table`.

    Args:
        frame: the rows.
        column: encoded or raw images, or arrays of the shape ``row``, nested or flat.
        labels: see :func:`row_table`.
        row: shape of a row.
        images: see :func:`row_table`.
    """
    if not images:
        rows = np.stack([np.asarray(cell, np.float32).ravel() for cell in frame[column]])
        return row_table(shaped(rows, row), labels, images)
    table = image_table(frame, column, row)
    place = table.schema.get_field_index("label")
    return table.set_column(place, "label", pa.array([str(label) for label in labels.tolist()]))


def first_cell(frame: Any, column: str) -> pd.Series:
    """The first cell of a column, of a pandas or a dask dataframe."""
    head = frame.head(1, npartitions=-1) if is_dask(frame) else frame.iloc[:1]
    cells: pd.Series = head[column]
    return cells


__all__ = ["column_table", "first_cell", "has_column", "is_dask", "row_table", "shaped"]
