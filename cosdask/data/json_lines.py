"""Arrow tables as lines of JSON."""

from __future__ import annotations

import base64
import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def json_lines(table: pa.Table) -> bytes:
    """An object a line. Arrow prints float32 with the fewest digits that read back as the same number."""
    rows = _objects(table.column_names, [column.combine_chunks() for column in table.columns])
    return "".join(f"{row}\n" for row in rows.to_pylist()).encode()


def _objects(names: list[str], columns: list[Any]) -> Any:
    fields = []
    for name, column in zip(names, columns, strict=True):
        key = _text(pa.array([name]))[0]
        fields.append(pc.binary_join_element_wise(key, ":", _cells(column), ""))
    return pc.binary_join_element_wise("{", pc.binary_join_element_wise(*fields, ","), "}", "")


def _cells(cells: Any) -> Any:
    """Each cell's JSON text; an empty cell is null."""
    if pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type) or pa.types.is_fixed_size_list(cells.type):
        inside = _cells(cells.flatten())
        lengths = pc.fill_null(pc.list_value_length(cells), 0)
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cast(pc.cumulative_sum(lengths), pa.int32())])
        joined = pc.binary_join(pa.ListArray.from_arrays(offsets, inside), ",")
        text = pc.binary_join_element_wise("[", joined, "]", "")
        return pc.if_else(pc.is_valid(cells), text, "null")
    if pa.types.is_struct(cells.type):
        names = [field.name for field in cells.type]
        return pc.if_else(pc.is_valid(cells), _objects(names, cells.flatten()), "null")
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
        text = _text(pc.cast(cells, pa.string()))
    return pc.fill_null(text, "null")


def _names_of_not_finite(cells: Any) -> Any:
    infinite = pc.if_else(pc.greater(cells, 0.0), '"Infinity"', '"-Infinity"')
    return pc.if_else(pc.is_nan(cells), '"NaN"', infinite)


def _text(words: Any) -> pa.Array:
    return pa.array([None if word is None else json.dumps(word) for word in words.to_pylist()], pa.string())
