"""Tables as folders of part files: extracted features, embedded captions."""

from __future__ import annotations

import base64
import json
import uuid
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cosdask.errors import DataError
from cosdask.storage import atomic_output, make_folder, refuse_overwrite, remove_all, take_name

if TYPE_CHECKING:
    import pandas as pd

#: Rows turned into JSON at a time: bounds the memory that the text of wide features takes.
_JSON_ROWS = 256


def write_table(frame: Any, url: str, form: str = "json", overwrite: bool = False) -> int:
    """Writes a lazy dask dataframe as a directory of part files, each partition by the worker that has it.

    The directory appears when all parts are written; what was there before stays until then.

    Args:
        frame: ``dask.dataframe`` with columns of text, numbers, 1-D float32 arrays, or of any Arrow type.
        url: local path or URL of the directory.
        form: "parquet", or "json": an object a line, float32 with the digits that it needs, bytes in base64 as Spark
            writes them.
        overwrite: replace a directory that is there.

    Returns:
        The number of rows written.

    Raises:
        StorageError: the directory is there and may not be replaced, or cannot be written.
        DataError: a column holds neither numbers, text nor arrays of numbers.
    """
    from dask.base import compute
    from dask.delayed import delayed

    refuse_overwrite(url, overwrite)
    beside = f"{url.rstrip('/')}.{uuid.uuid4().hex[:8]}.part"
    write = delayed(write_part)
    parts = [write(part, f"{beside}/part-{i:05d}.{form}") for i, part in enumerate(frame.to_delayed())]
    try:
        rows = sum(compute(*parts))
        make_folder(beside)
        take_name(beside, url)
    finally:
        remove_all(beside)
    return int(rows)


def write_part(frame: pd.DataFrame, url: str) -> int:
    """Writes one partition to a ``.parquet`` or ``.json`` file; returns its number of rows."""
    table = as_table(frame)
    with atomic_output(url) as file:
        if url.endswith(".parquet"):
            pq.write_table(table, file)
        else:
            for start in range(0, table.num_rows, _JSON_ROWS):
                file.write(_json_lines(table.slice(start, _JSON_ROWS)))
    return table.num_rows


def as_table(frame: pd.DataFrame) -> pa.Table:
    """A partition as an Arrow table without pandas metadata, which other readers (and pandas itself) stumble over.

    Columns of arrays become lists of float32 also where a partition has no rows to show what it holds.
    """
    columns = {}
    for name in frame.columns:
        values = frame[name]
        try:
            # As pandas sees it, a number that is none would be a gap, also inside of arrays.
            columns[str(name)] = pa.array(values, type=_arrow_type(values), from_pandas=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            message = f'column "{name}" holds neither text, numbers nor arrays of numbers: {error}'
            raise DataError(message, column=str(name)) from error
    return pa.table(columns)


def _arrow_type(values: pd.Series) -> pa.DataType | None:
    """The type to write; None lets Arrow take the one the column has."""
    import pandas as pd

    if isinstance(values.dtype, pd.ArrowDtype):
        return values.dtype.pyarrow_dtype
    if values.name == "SampleID" or isinstance(values.dtype, pd.StringDtype):
        return pa.string()
    return pa.list_(pa.float32()) if values.dtype == object else None


def _json_lines(table: pa.Table) -> bytes:
    """An object a line. Arrow prints float32 with the fewest digits that read back as the same number."""
    rows = _json_objects(table.column_names, [column.combine_chunks() for column in table.columns])
    return "".join(f"{row}\n" for row in rows.to_pylist()).encode()


def _json_objects(names: list[str], columns: list[Any]) -> Any:
    fields = []
    for name, column in zip(names, columns, strict=True):
        key = _json_text(pa.array([name]))[0]
        fields.append(pc.binary_join_element_wise(key, ":", _json_cells(column), ""))
    return pc.binary_join_element_wise("{", pc.binary_join_element_wise(*fields, ","), "}", "")


def _json_cells(cells: Any) -> Any:
    """Each cell's JSON text; an empty cell is null."""
    if pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type) or pa.types.is_fixed_size_list(cells.type):
        inside = _json_cells(cells.flatten())
        lengths = pc.fill_null(pc.list_value_length(cells), 0)
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cast(pc.cumulative_sum(lengths), pa.int32())])
        joined = pc.binary_join(pa.ListArray.from_arrays(offsets, inside), ",")
        text = pc.binary_join_element_wise("[", joined, "]", "")
        return pc.if_else(pc.is_valid(cells), text, "null")
    if pa.types.is_struct(cells.type):
        names = [field.name for field in cells.type]
        return pc.if_else(pc.is_valid(cells), _json_objects(names, cells.flatten()), "null")
    if pa.types.is_binary(cells.type) or pa.types.is_large_binary(cells.type):
        cells = pa.array(
            [None if cell is None else base64.b64encode(cell).decode() for cell in cells.to_pylist()], pa.string()
        )
    if pa.types.is_floating(cells.type):
        text = pc.cast(cells, pa.string())
        text = pc.if_else(pc.fill_null(pc.is_finite(cells), True), text, _names_of_not_finite(cells))
    elif pa.types.is_integer(cells.type) or pa.types.is_boolean(cells.type):
        text = pc.cast(cells, pa.string())
    else:
        text = _json_text(pc.cast(cells, pa.string()))
    return pc.fill_null(text, "null")


def _names_of_not_finite(cells: Any) -> Any:
    infinite = pc.if_else(pc.greater(cells, 0.0), '"Infinity"', '"-Infinity"')
    return pc.if_else(pc.is_nan(cells), '"NaN"', infinite)


def _json_text(words: Any) -> pa.Array:
    return pa.array([None if word is None else json.dumps(word) for word in words.to_pylist()], pa.string())
