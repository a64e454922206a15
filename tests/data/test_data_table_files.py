"""Folders of part files: readable by others, whole or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dask
import dask.dataframe as dd
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dask import delayed
from hypothesis import given
from hypothesis import strategies as st

from cosdask.data import table_files
from cosdask.data.table_files import as_table, write_part, write_table
from cosdask.errors import DataError, StorageError

TYPES = {"SampleID": pd.ArrowDtype(pa.string()), "ip1": pd.ArrowDtype(pa.list_(pa.float32()))}


@pytest.fixture(autouse=True)
def one_thread() -> object:
    """Without a cluster, partitions are written by this thread."""
    with dask.config.set(scheduler="synchronous"):
        yield


def frame(start: int, stop: int) -> pd.DataFrame:
    rows = [np.array([i, i / 7, -i], np.float32) for i in range(start, stop)]
    return pd.DataFrame({"SampleID": [f"{i:08d}" for i in range(start, stop)], "ip1": rows}).astype(object)


def features(*counts: int) -> object:
    """A lazy dataframe as ``CaffeOnDask.features`` gives it, with partitions of so many rows."""
    ends = np.cumsum(counts)
    parts = [frame(end - count, end).astype(TYPES) for end, count in zip(ends, counts, strict=True)]
    return dd.from_delayed([delayed(part) for part in parts], meta=parts[0].iloc[:0])


def expected(rows: int) -> list[tuple[str, list[float]]]:
    return [(name, list(map(float, cell))) for name, cell in zip(*frame(0, rows).to_dict("list").values(), strict=True)]


# Dask itself uses what pandas 3.1 announces to remove.
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_parquet_features_are_read_by_pandas_dask_and_duckdb(tmp_path: Path) -> None:
    target = tmp_path / "features.parquet"
    assert write_table(features(3, 0, 2), str(target), "parquet") == 5
    read = pd.read_parquet(target)
    assert [(i, list(map(float, cell))) for i, cell in zip(read["SampleID"], read["ip1"], strict=True)] == expected(5)
    lazy = dd.read_parquet(target).compute()
    assert sorted(lazy["SampleID"]) == [name for name, _ in expected(5)]
    found = duckdb.sql(f"select SampleID, ip1 from '{target}/*.parquet' order by SampleID").fetchall()
    assert found == expected(5)


def test_json_features_are_an_object_a_line(tmp_path: Path) -> None:
    target = tmp_path / "features"
    assert write_table(features(2, 1), str(target), "json") == 3
    parts = sorted(target.iterdir())
    assert [path.name for path in parts] == ["part-00000.json", "part-00001.json"]
    rows = [json.loads(line) for path in parts for line in path.read_text().splitlines()]
    assert [(row["SampleID"], list(map(np.float32, row["ip1"]))) for row in rows] == [
        (name, list(map(np.float32, cell))) for name, cell in expected(3)
    ]


@given(st.lists(st.lists(st.floats(width=32), max_size=4), min_size=1, max_size=6))
def test_json_numbers_read_back_as_the_same_float32(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    path = tmp_path_factory.mktemp("json") / "part-00000.json"
    cells = [np.array(row, np.float32) for row in rows]
    write_part(
        pd.DataFrame({"SampleID": [str(i) for i in range(len(rows))], "ip": pd.Series(cells, dtype=object)}), str(path)
    )
    back = [np.array([float(x) for x in json.loads(line)["ip"]], np.float32) for line in path.read_text().splitlines()]
    assert len(back) == len(cells)
    for one, other in zip(back, cells, strict=True):
        np.testing.assert_array_equal(one, other)


def test_json_holds_text_numbers_and_gaps(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.json"
    rows = pd.DataFrame(
        {
            "SampleID": ['a"\n', "ü"],
            "count": [1, 2],
            "score": pd.Series([0.5, None], dtype=pd.ArrowDtype(pa.float32())),
            "ip": pd.Series([None, [1.5]], dtype=pd.ArrowDtype(pa.list_(pa.float32()))),
        }
    )
    write_part(rows, str(path))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"SampleID": 'a"\n', "count": 1, "score": 0.5, "ip": None},
        {"SampleID": "ü", "count": 2, "score": None, "ip": [1.5]},
    ]


def test_json_holds_structs_and_bytes(tmp_path: Path) -> None:
    """As Spark writes them: objects, and bytes in base64."""
    kind = pa.struct([("height", pa.int32()), ("image", pa.binary())])
    cells = pa.array([{"height": 3, "image": b"\xff\x00a"}, None, {"height": None, "image": None}], kind)
    path = tmp_path / "part-00000.json"
    write_part(pd.DataFrame({"data": pd.array(cells, dtype=pd.ArrowDtype(kind))}), str(path))
    rows = [json.loads(line)["data"] for line in path.read_text().splitlines()]
    assert rows == [{"height": 3, "image": "/wBh"}, None, {"height": None, "image": None}]


def test_a_partition_without_rows_has_the_same_types() -> None:
    """A reader joins all part files; one without rows must not change a column's type."""
    assert as_table(frame(0, 0)).schema == as_table(frame(0, 2)).schema


def test_there_is_no_pandas_metadata() -> None:
    assert as_table(frame(0, 2).astype(TYPES)).schema.metadata is None


def test_arrays_turned_into_text_are_refused() -> None:
    with pytest.raises(DataError, match='column "ip1"'):
        as_table(pd.DataFrame({"SampleID": ["a"], "ip1": pd.Series(["[0. 1.]"], dtype=object)}))


def test_a_directory_that_exists_is_kept_without_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "features"
    write_table(features(2), str(target))
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(StorageError, match="--overwrite"):
        write_table(features(5), str(target))
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_overwrite_replaces_the_whole_directory(tmp_path: Path) -> None:
    target = tmp_path / "features"
    write_table(features(2, 2, 2), str(target))
    write_table(features(1), str(target), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["features"]
    assert [path.name for path in target.iterdir()] == ["part-00000.json"]


def test_workers_with_working_directories_of_their_own_write_to_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path counts from where the command was given."""
    (tmp_path / "worker").mkdir()
    monkeypatch.chdir(tmp_path)

    def write_elsewhere(rows: pd.DataFrame, url: str) -> int:
        os.chdir(tmp_path / "worker")
        try:
            return write_part(rows, url)
        finally:
            os.chdir(tmp_path)

    monkeypatch.setattr(table_files, "write_part", write_elsewhere)
    assert write_table(features(2, 1), "out/features") == 3
    assert len(list((tmp_path / "out" / "features").iterdir())) == 2
    assert not list((tmp_path / "worker").iterdir())


def test_parts_that_do_not_arrive_are_an_error_and_leave_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in = rows out: workers that wrote to disks of their own have not written what was asked for."""

    def write_to_own_disk(rows: pd.DataFrame, url: str) -> int:
        own = url.replace(str(tmp_path), str(tmp_path / "own")) if "part-00001" in url else url
        return write_part(rows, own)

    monkeypatch.setattr(table_files, "write_part", write_to_own_disk)
    with pytest.raises(StorageError, match=r"features: 1 of 3 part files did not arrive, part-00001\.json.*hdfs://"):
        write_table(features(2, 1, 2), str(tmp_path / "features"))
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_a_failure_leaves_nothing_half_written(tmp_path: Path) -> None:
    target = tmp_path / "features"
    write_table(features(2), str(target))
    broken = dd.from_delayed([delayed(frame)(0, 2), delayed(frame)(0, "x")], meta=frame(0, 0), verify_meta=False)
    with pytest.raises(TypeError):
        write_table(broken, str(target), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["features"]
    assert len((target / "part-00000.json").read_text().splitlines()) == 2
