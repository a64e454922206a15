"""Casts in SQL expressions as Spark makes them: ``cast(3.7 as int)`` cuts to 3, where DuckDB rounds to 4."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import duckdb


def parsed(engine: duckdb.DuckDBPyConnection, query: str) -> dict[str, Any]:
    """DuckDB's tree of a query; ``error`` is true where it is none."""
    found: dict[str, Any] = json.loads(engine.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0])
    return found


def walk(tree: Any) -> Iterator[dict[str, Any]]:
    """All nodes of a tree, each before those below it."""
    if isinstance(tree, dict):
        yield tree
        for part in tree.values():
            yield from walk(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from walk(part)


def with_cutting_casts(engine: duckdb.DuckDBPyConnection, query: str) -> str:
    """The same query, in which casts of numbers with a fraction to whole ones cut the fraction off.

    Args:
        engine: knows the table that is asked.
        query: ``SELECT ... FROM ...``.

    Raises:
        duckdb.Error: the query cannot be answered.

    Example:
        >>> import duckdb
        >>> with_cutting_casts(duckdb.connect(), "SELECT cast(3.7 AS int) AS label FROM (SELECT 1)")
        'SELECT CAST(trunc(3.7) AS INTEGER) AS "label" FROM (SELECT 1)'
    """
    tree = parsed(engine, query)
    changed = False
    for node in walk(tree):
        if node.get("class") == "CAST" and _cuts(engine, tree, node):
            node["child"] = _cut(engine, node["child"])
            changed = True
    return _text(engine, tree) if changed else query


def _cuts(engine: duckdb.DuckDBPyConnection, tree: dict[str, Any], cast: dict[str, Any]) -> bool:
    """Whether a cast makes whole numbers of others."""
    asked = copy.deepcopy(tree)
    asked["statements"][0]["node"]["select_list"] = [
        {**copy.deepcopy(part), "alias": ""} for part in (cast["child"], cast)
    ]
    before, after = (field.type for field in engine.sql(f"{_text(engine, asked)} LIMIT 0").to_arrow_table().schema)
    return bool(pa.types.is_integer(after) and (pa.types.is_floating(before) or pa.types.is_decimal(before)))


def _cut(engine: duckdb.DuckDBPyConnection, value: dict[str, Any]) -> dict[str, Any]:
    """``trunc`` of an expression, as the tree that this version of DuckDB makes of it."""
    call: dict[str, Any] = parsed(engine, "SELECT trunc(0)")["statements"][0]["node"]["select_list"][0]
    (place,) = (node for node in walk(call) if node.get("class") == "CONSTANT")
    place.clear()
    place.update({**value, "alias": ""})
    return call


def _text(engine: duckdb.DuckDBPyConnection, tree: dict[str, Any]) -> str:
    return str(engine.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchall()[0][0])
