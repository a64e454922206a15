"""Formats of dataframes, and the SQL expressions that select their columns."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest

from cosdask.data import Source, formats, open_source
from cosdask.errors import ConfigError, CosdaskError, DataError

Digits = tuple[np.ndarray, np.ndarray]
SIZES = "channels: 3 height: 9 width: 8"


def rows_of(digits: Digits) -> pa.Table:
    """The digits with CaffeOnSpark's columns."""
    images, labels = digits
    return pa.table(
        {
            "id": [f"{row:08d}" for row in range(len(labels))],
            "label": [str(label) for label in labels],
            "data": [image.transpose(1, 2, 0).tobytes() for image in images],
        }
    )


def spark_json(table: pa.Table) -> str:
    """One object a line as Spark writes them: bytes in base64, null fields left out."""
    lines = []
    for row in table.to_pylist():
        found = {
            k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in row.items() if v is not None
        }
        lines.append(json.dumps(found))
    return "\n".join(lines) + "\n"


def spark_csv(table: pa.Table, header: bool) -> str:
    """Spark's CSV, bytes as base64."""
    lines = [",".join(table.schema.names)] if header else []
    for row in table.to_pylist():
        lines.append(",".join([row["id"], row["label"], base64.b64encode(row["data"]).decode()]))
    return "\n".join(lines) + "\n"


def write(table: pa.Table, folder: Path, form: str) -> str:
    """A folder of two parts of a format (and Spark's marker), as text for dataframe_format."""
    folder.mkdir()
    (folder / "_SUCCESS").write_bytes(b"")
    for number, part in enumerate((table.slice(0, 10), table.slice(10))):
        name = folder / f"part-{number:05d}.{form}"
        if form == "parquet":
            pq.write_table(part, name, row_group_size=4)
        elif form == "orc":
            orc.write_table(part, name)
        elif form == "arrow":
            feather.write_feather(part, name, chunksize=4)
        elif form == "json":
            name.write_text(spark_json(part))
        elif form == "json.gz":
            name.write_bytes(gzip.compress(spark_json(part).encode()))
        else:
            name.write_text(spark_csv(part, header=True))
    return form.split(".")[0]


@pytest.mark.parametrize("form", ["parquet", "orc", "arrow", "json", "json.gz", "csv"])
def test_every_format_gives_the_same_rows(
    form: str, digits: Digits, tmp_path: Path, make_layer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 3: folders of parts in each format, cut in several blocks, give each row once, in order."""
    monkeypatch.setattr(formats, "TEXT_BLOCK", 900)
    name = write(rows_of(digits), tmp_path / "rows", form)
    layer = make_layer("parquet", tmp_path / "rows", 7, more=f'{SIZES} dataframe_format: "{name}"')
    source = Source.from_spec(open_source(layer).spec())
    batches = list(source.batches(epochs=1))
    np.testing.assert_array_equal(np.concatenate([b["data"] for b in batches]), digits[0].astype(np.float32))
    assert np.concatenate([b["label"].ravel() for b in batches]).tolist() == digits[1].tolist()
    assert len(source.index().blocks) > (1 if form == "orc" else 3)
    for start, stop in [(0, 23), (9, 11), (3, 4), (12, 23)]:
        ids = [name for rows in source.read(start, stop, 3) for name in source.ids(rows)]
        assert ids == [f"{row:08d}" for row in range(start, stop)]


def test_large_rows_come_a_few_at_a_time(tmp_path: Path) -> None:
    """A row group of many megabytes is never in memory whole, so what the feed holds does not grow with it."""
    pictures = [np.random.default_rng(row).bytes(3 << 20) for row in range(12)]
    pq.write_table(pa.table({"label": ["0"] * 12, "data": pictures}), tmp_path / "rows.parquet")
    table = formats.ParquetTable(str(tmp_path / "rows.parquet"))
    (block,) = table.count().blocks
    batches = list(table.read_block(block, 1, 11, ["data"]))
    assert max(rows.num_rows for rows in batches) <= 2
    assert [cell.as_py() for rows in batches for cell in rows.column("data")] == pictures[1:]


def test_json_as_spark_writes_it(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """Fields that are null are left out, also in the first rows; bytes may be lists of signed numbers."""
    lines = [
        {"label": "1", "data": [1, -1, 0]},
        {"label": "2", "data": [-128, 127, 5], "id": "second"},
    ]
    (tmp_path / "rows.json").write_text("\n\n".join(json.dumps(line) for line in lines))
    more = 'channels: 3 height: 1 width: 1 dataframe_format: "json"'
    source = open_source(make_layer("parquet", tmp_path / "rows.json", 2, more=more))
    batch = next(source.batches())
    assert batch["data"][:, :, 0, 0].tolist() == [[1, 255, 0], [128, 127, 5]]
    assert [name for rows in source.read(0, 2) for name in source.ids(rows)] == ["", "second"]


def test_csv_without_a_header_has_sparks_names(tmp_path: Path, digits: Digits, make_layer: Callable[..., Any]) -> None:
    """_c0, _c1 and on are selected by expressions; ids keep their zeros."""
    (tmp_path / "rows.csv").write_text(spark_csv(rows_of(digits), header=False))
    select = 'dataframe_column_select: "_c0 AS id" dataframe_column_select: "_c1 AS label" '
    select += 'dataframe_column_select: "unbase64(_c2) AS data"'
    layer = make_layer("parquet", tmp_path / "rows.csv", 23, more=f'{SIZES} dataframe_format: "csv" {select}')
    source = open_source(layer)
    np.testing.assert_array_equal(next(source.batches())["data"], digits[0].astype(np.float32))
    assert source.frame(source.partitions()[0])["id"][3] == "00000003"


def test_selected_columns_are_all_there_is(tmp_path: Path, digits: Digits, make_layer: Callable[..., Any]) -> None:
    """Renames, functions and casts as the sheet shows them; columns that are not selected are gone."""
    table = rows_of(digits).rename_columns(["SampleID", "label", "data"])
    table = table.set_column(1, "label", pa.array(digits[1], pa.int32()))
    table = table.append_column("height", pa.array([-9] * 23)).append_column("width", pa.array([99] * 23))
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=5)
    select = " ".join(
        f"dataframe_column_select: {json.dumps(text)}"
        for text in ("SampleID as id", "cast(label as string) label", "abs(height) as height", "`data`")
    )
    source = open_source(make_layer("parquet", tmp_path / "rows.parquet", 23, more=f"{SIZES} {select}"))
    np.testing.assert_array_equal(next(source.batches())["data"], digits[0].astype(np.float32))
    frame = source.frame(source.partitions()[0])
    assert frame["width"].tolist()[0] == 0  # not selected, so the layer's
    assert frame["height"].tolist()[0] == 9
    assert frame["id"][22] == "00000022"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("avg(label)", "the function avg cannot be used"),
        ("row_number() over () as id", "a window cannot be used"),
        ("(select max(label) from rows) as label", "a subquery cannot be used"),
        ("random() as label", "random cannot be used"),
        ("label from rows where true --", "no SQL expression"),
        ("label from rows union all select label", "only an expression"),
        ("label, data from rows, rows as other, lateral (select 1) as more where 1 in (select 1", "no SQL expression"),
        ("repeat(label, 3000000000) as label", "the function repeat cannot be used"),
        ("list_reduce([label, label], lambda a, b: a || b) as label", "cannot be used"),
        ("label; drop table rows", "no SQL expression"),
        ("* from read_csv('/etc/hostname') --", "no SQL expression"),
        ("read_text('/etc/hostname') as data", "read_text cannot be used"),
        ("unnest([label, label]) as label", "unnest cannot be used"),
        ("labell as label", r"labell.*columns are label, data.*Did you mean \"label\""),
        ("cast(label as integr) as label", "integr"),
        (" ", "an expression of 1 characters"),
    ],
)
def test_expressions_stay_within_their_row(
    expression: str, message: str, tmp_path: Path, make_layer: Callable[..., Any]
) -> None:
    """Invariant 10: no other rows, no files, no second statement, nothing that changes between two readings."""
    pq.write_table(pa.table({"label": ["1", "2"], "data": [bytes(216)] * 2}), tmp_path / "rows.parquet")
    select = f"dataframe_column_select: {json.dumps(expression)}"
    source = open_source(make_layer("parquet", tmp_path / "rows.parquet", 1, more=f"{SIZES} {select}"))
    with pytest.raises((ConfigError, DataError), match=message):
        source.spec()


def test_the_engine_sees_no_files_and_has_bounds(tmp_path: Path) -> None:
    """Even what would pass the look at the expression: no file, no setting, no extension, no more memory."""
    import duckdb

    from cosdask.data.selecting import _engine

    (tmp_path / "secret.csv").write_text("a\n1\n")
    for query in (
        f"SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')",
        f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'",
        f"ATTACH '{tmp_path / 'other.db'}'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT repeat('x', 1000000000 + n) FROM range(2) AS t(n)",
    ):
        with pytest.raises(duckdb.Error):
            _engine().execute(query).fetchall()
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]


@pytest.mark.parametrize("form", ["orc", "arrow", "json", "json.gz", "csv", "parquet"])
def test_damaged_files_are_named(form: str, digits: Digits, tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """A torn or foreign file is one of our errors, with its name, in every format."""
    name = write(rows_of(digits), tmp_path / "rows", form)
    part = tmp_path / "rows" / f"part-00001.{form}"
    data = part.read_bytes()
    part.write_bytes(data[: len(data) // 2] + b"\xff{" * 10)
    layer = make_layer("parquet", tmp_path / "rows", 7, more=f'{SIZES} dataframe_format: "{name}"')
    with pytest.raises(CosdaskError, match="part-00001"):
        list(open_source(layer).batches(epochs=1))


def test_each_csv_says_for_itself_whether_it_has_a_header(
    tmp_path: Path, digits: Digits, make_layer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 3: parts that were split from one file have a header in the first only; cells may be long."""
    monkeypatch.setenv("COSDASK_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "rows").mkdir()
    table = rows_of(digits)
    for number, part in enumerate((table.slice(0, 10), table.slice(10))):
        (tmp_path / "rows" / f"part-{number}.csv").write_text(spark_csv(part, header=number == 0))
    layer = make_layer("parquet", tmp_path / "rows", 23, more=f'{SIZES} dataframe_format: "csv"')
    source = open_source(layer)
    assert source.rows == 23
    assert next(source.batches())["label"].ravel().tolist() == digits[1].tolist()

    # what is wanted decides what is a header: a count made for other names is not taken
    renamed = spark_csv(table, header=True).replace("id,label,data", "key,cls,img", 1)
    (tmp_path / "other.csv").write_text(renamed)
    plain = make_layer("parquet", tmp_path / "other.csv", 23, more=f'{SIZES} dataframe_format: "csv"')
    with pytest.raises(DataError, match="no column 'label'"):
        open_source(plain).spec()
    select = " ".join(
        f'dataframe_column_select: "{name}"' for name in ("key AS id", "cls AS label", "unbase64(img) data")
    )
    chosen = make_layer("parquet", tmp_path / "other.csv", 23, more=f'{SIZES} dataframe_format: "csv" {select}')
    assert next(open_source(chosen).batches())["label"].ravel().tolist() == digits[1].tolist()

    (tmp_path / "long.csv").write_text(f"a,1,{base64.b64encode(bytes(1 << 20)).decode()}\n")
    table_of_long = formats.CsvTable(str(tmp_path / "long.csv"), ["label"])
    assert table_of_long.schema.names == ["_c0", "_c1", "_c2"] and table_of_long.count().rows == 1


def test_json_texts_that_look_like_times_stay_texts(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """Where all ids of a block look like days, Arrow would make times of them."""
    lines = [{"id": f"2015-06-0{row}", "label": "1", "data": [row], "more": {"at": "2020-01-01"}} for row in (1, 2)]
    (tmp_path / "rows.json").write_text("\n".join(json.dumps(line) for line in lines))
    more = 'channels: 1 height: 1 width: 1 dataframe_format: "json"'
    source = open_source(make_layer("parquet", tmp_path / "rows.json", 2, more=more))
    assert [name for rows in source.read(0, 2) for name in source.ids(rows)] == ["2015-06-01", "2015-06-02"]


def test_casts_to_whole_numbers_cut_as_spark_does(
    tmp_path: Path, digits: Digits, make_layer: Callable[..., Any]
) -> None:
    """DuckDB alone would round: 3.7 is 3, -3.7 is -3, and whole numbers of any size stay exact."""
    ages = [37.0 - 2 * row for row in range(23)]
    table = rows_of(digits).append_column("age", pa.array(ages)).append_column("big", pa.array([2**53 + 1] * 23))
    pq.write_table(table, tmp_path / "rows.parquet")
    select = 'dataframe_column_select: "cast(age / 10 as int) AS label" dataframe_column_select: "data" '
    select += 'dataframe_column_select: "cast(cast(big as bigint) as string) AS id"'
    source = open_source(make_layer("parquet", tmp_path / "rows.parquet", 23, more=f"{SIZES} {select}"))
    assert next(source.batches())["label"].ravel().tolist() == [float(int(age / 10)) for age in ages]
    assert source.ids(next(source.read(0, 1))) == [str(2**53 + 1)]
