"""``dataframe_column_select``: SQL expressions over a table's columns, evaluated by DuckDB batch by batch.

The expressions come from a prototxt, which is not trusted: the engine sees the one batch and nothing else (no files, no
network, no extensions), and each expression must give one value a row from that row alone. Only functions whose result
is about as large as what they are given can be called: DuckDB's memory limit does not hold inside of some others
(``repeat``, ``replace`` and ``list_reduce`` took gigabytes beyond it).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cosdask.data.index import Block, Index
from cosdask.data.spark_casts import parsed, walk, with_cutting_casts
from cosdask.data.tables import Table
from cosdask.errors import ConfigError, DataError, did_you_mean
from cosdask.storage import FileStamp

if TYPE_CHECKING:
    import duckdb

_LOCAL = threading.local()
#: The engine's settings, which are then locked.
_SETTINGS = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": "1GB",
    "threads": "1",
}
#: Spark's names of functions that DuckDB calls otherwise.
_MACROS = ("CREATE MACRO unbase64(x) AS from_base64(x)",)
_ROWS = "rows"
#: Rows that the engine sees at once.
_BATCH = 1024
#: Most characters of an expression.
_LENGTH_LIMIT = 2_000
#: Functions of one row's values, the same whenever they are asked, whose results stay small.
_NAMES = """
    abs acos asin atan atan2 cbrt ceil ceiling cos cot degrees even exp fdiv floor fmod gamma greatest isfinite isinf
    isnan least lgamma ln log log10 log2 mod nextafter pi pow power radians round round_even sign signbit sin sqrt tan
    trunc xor bit_count add subtract multiply divide
    ascii base64 bit_length chr char_length character_length concat concat_ws contains decode encode ends_with
    from_base64 from_hex hex initcap instr lcase left left_grapheme len length like_escape lower ltrim md5
    octet_length ord position prefix regexp_extract regexp_full_match regexp_matches reverse right rtrim sha1 sha256
    split_part starts_with strip_accents strlen strpos substr substring suffix to_base64 to_hex translate trim ucase
    unbase64 unbin unhex unicode upper url_decode url_encode
    coalesce if ifnull nullif nvl error_if_null is_nan
    array_extract array_length array_slice array_value cardinality element_at flatten list_element list_extract
    list_pack list_slice list_value list_contains list_position row struct_extract struct_extract_at struct_pack
    json_extract json_extract_string
    date_part day dayofweek dayofyear epoch hour minute month quarter second strftime strptime to_timestamp week year
    """
_FUNCTIONS = frozenset(_NAMES.split())


def _engine() -> duckdb.DuckDBPyConnection:
    """This thread's engine: opening one takes longer than evaluating many batches."""
    # loaded by those who select columns only
    import duckdb

    if not hasattr(_LOCAL, "engine"):
        engine = duckdb.connect(":memory:", config=dict(_SETTINGS))
        for macro in _MACROS:
            engine.execute(macro)
        engine.execute("SET lock_configuration = true")
        _LOCAL.engine = engine
    found: duckdb.DuckDBPyConnection = _LOCAL.engine
    return found


class SelectedTable(Table):
    """A table with other columns: one for each expression.

    Args:
        table: whose columns the expressions name.
        expressions: such as ``"a AS id"``, ``"abs(height) AS height"``, ``"cast(label AS string) label"``, ``"*"``.
        where: the layer, for messages.

    Raises:
        ConfigError: an expression that is not one value a row.
        DataError: a column that is not there.
    """

    def __init__(self, table: Table, expressions: Sequence[str], where: str) -> None:
        self.table, self.expressions, self.where = table, list(expressions), where
        self.textual = table.textual
        self._query = ""

    @property
    def place(self) -> str:
        """Where the rows lie, for messages."""
        return self.table.place

    @property
    def stamps(self) -> list[tuple[str, FileStamp]] | None:
        """See :meth:`Table.stamps`."""
        return self.table.stamps

    @cached_property
    def columns(self) -> list[str]:
        """The stored columns that the expressions read."""
        named: set[str] | None = set()
        for text in self.expressions:
            found = _checked(_engine(), text, self.where)
            named = None if found is None or named is None else named | found
        if named is None:
            return list(self.table.schema.names)
        lower = {name.lower() for name in named}
        return [name for name in self.table.schema.names if name.lower() in lower]

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns that the expressions give."""
        columns = self.columns
        empty = self.table.schema.empty_table().select(columns) if columns else self.table.schema.empty_table()
        found = self._select(empty)
        if found.num_rows:
            raise ConfigError(f"{self.where}: dataframe_column_select sums up rows; one value a row is needed")
        return found.schema

    def count(self) -> Index:
        """See :meth:`Table.count`."""
        return self.table.count()

    def read_block(self, block: Block, skip: int, count: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Table.read_block`."""
        assert self.schema is not None  # checks the expressions before rows are read
        for rows in self.table.read_block(block, skip, count, self.columns or self.table.schema.names):
            for first in range(0, rows.num_rows, _BATCH):
                part = pa.Table.from_batches([rows.slice(first, _BATCH)])
                found = self._select(part)
                if found.num_rows != part.num_rows:
                    raise DataError(
                        f"{self.where}: dataframe_column_select gives {found.num_rows} rows for {part.num_rows}; "
                        "each expression must give one value a row",
                        path=self.place,
                    )
                yield from found.combine_chunks().to_batches()

    def _select(self, rows: pa.Table) -> pa.Table:
        import duckdb

        engine = _engine()
        engine.register(_ROWS, rows)
        try:
            if not self._query:
                self._query = with_cutting_casts(engine, f"SELECT {', '.join(self.expressions)}\nFROM {_ROWS}")
            return engine.sql(self._query).to_arrow_table()
        except duckdb.Error as error:
            names = self.table.schema.names
            missed = next((name for name in _named(str(error)) if name not in names), "")
            raise DataError(
                f"{self.place}: {self.where}: dataframe_column_select: {_first_line(error)} The columns are "
                f"{', '.join(names)}.{did_you_mean(missed, names)}",
                path=self.place,
            ) from error
        finally:
            engine.unregister(_ROWS)


def wanted_names(expressions: Sequence[str], where: str) -> list[str]:
    """The columns that expressions name, where they name them all: what tells a CSV's header from its rows."""
    return sorted(set().union(*(_checked(_engine(), text, where) or set() for text in expressions)))


def _checked(engine: duckdb.DuckDBPyConnection, text: str, where: str) -> set[str] | None:
    """The columns that an expression names (None: all of them), after a look at what it is.

    Raises:
        ConfigError: it is no expression of one row's values.
    """
    if len(text) > _LENGTH_LIMIT or not text.strip():
        raise ConfigError(
            f"{where}: dataframe_column_select: an expression of {len(text)} characters; 1 to {_LENGTH_LIMIT} are "
            "possible"
        )
    query = f"SELECT {text}\nFROM {_ROWS}"
    tree = parsed(engine, query)
    if tree.get("error"):
        reason = tree.get("error_message", "")
        raise ConfigError(f'{where}: dataframe_column_select "{text}": no SQL expression: {reason}')
    if len(tree["statements"]) != 1 or not _is_plain(tree["statements"][0]["node"]):
        raise ConfigError(
            f'{where}: dataframe_column_select "{text}": only an expression over columns is possible, such as '
            '"abs(height) AS height"'
        )
    names: set[str] = set()
    whole = False
    for part in walk(tree["statements"][0]["node"]["select_list"]):
        kind = part.get("class")
        if kind in ("WINDOW", "SUBQUERY", "LAMBDA"):
            raise ConfigError(
                f'{where}: dataframe_column_select "{text}": a {kind.lower()} cannot be used; one value from one row '
                "is needed"
            )
        name = str(part.get("function_name", "")).lower()
        if kind == "FUNCTION" and not part.get("is_operator") and name not in _FUNCTIONS:
            raise ConfigError(
                f'{where}: dataframe_column_select "{text}": the function {name} cannot be used.'
                f"{did_you_mean(name, _FUNCTIONS)} Those that can are {', '.join(sorted(_FUNCTIONS))}"
            )
        whole = whole or kind == "STAR"
        if kind == "COLUMN_REF":
            names.update(part["column_names"][:2])
    return None if whole else names


def _is_plain(node: dict[str, Any]) -> bool:
    """Whether a query is ``SELECT ... FROM rows`` without anything more."""
    source = node.get("from_table") or {}
    extras = ("where_clause", "group_expressions", "group_sets", "having", "qualify", "sample", "modifiers")
    return (
        node.get("type") == "SELECT_NODE"
        and source.get("type") == "BASE_TABLE"
        and source.get("table_name") == _ROWS
        and not source.get("alias")
        and not any(node.get(name) for name in extras)
    )


def _named(message: str) -> list[str]:
    return message.split('"')[1::2]


def _first_line(error: Exception) -> str:
    line = str(error).split("\n", 1)[0].strip()
    return line if line.endswith((".", "!", "?")) else line + "."
