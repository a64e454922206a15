"""LevelDBs of Datums: rows in order, read beside others, never written to, damage named."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import plyvel
import pytest
from google.protobuf import text_format

from cosdask.data import Feed, RowPlan, Source, open_source, write_lmdb
from cosdask.errors import ConfigError, DataError, StorageError
from cosdask.proto import caffe_pb2

ROWS = 3000


def write(path: Path, rows: int = ROWS) -> np.ndarray:
    """Write gray 10 x 10 images labelled by their number, some of them only in the log; returns the images."""
    images = np.random.default_rng(rows).integers(0, 256, (rows, 1, 10, 10), dtype=np.uint8)
    database = plyvel.DB(str(path), create_if_missing=True, write_buffer_size=64 << 10, max_file_size=64 << 10)
    for row, image in enumerate(images):
        datum = caffe_pb2.Datum(channels=1, height=10, width=10, label=row, data=image.tobytes())
        database.put(b"%08d" % row, datum.SerializeToString())
    database.close()
    return images


@pytest.fixture(scope="module")
def leveldb(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A LevelDB of several tables and a log."""
    path = tmp_path_factory.mktemp("leveldb") / "rows"
    images = write(path)
    assert len(list(path.glob("*.ldb"))) > 2 and any(file.stat().st_size for file in path.glob("*.log"))
    return path, images


def layer(source: object, batch: int = 100, backend: str = "") -> caffe_pb2.LayerParameter:
    """A Data layer; LEVELDB is the default of ``backend``."""
    text = f'name: "d" type: "Data" top: "data" top: "label" data_param {{ source: "{source}" {backend} '
    return text_format.Parse(text + f"batch_size: {batch} }}", caffe_pb2.LayerParameter())


def fingerprint(path: Path) -> dict[str, str]:
    """Names and contents of a folder's files."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


def test_rows_in_order_and_any_range(leveldb: tuple[Path, np.ndarray]) -> None:
    """Every row once, in the order of the keys, from tables and log; reading from the middle finds the row."""
    path, images = leveldb
    before = fingerprint(path)
    source = open_source(layer(path))
    assert source.rows == ROWS and len(source.index().blocks) > 4
    batches = list(source.batches(epochs=1))
    np.testing.assert_array_equal(np.concatenate([batch["data"] for batch in batches]), images.astype(np.float32))
    np.testing.assert_array_equal(np.concatenate([batch["label"] for batch in batches]), np.arange(ROWS))
    for start, stop in [(0, 1), (63, 65), (1500, 1777), (ROWS - 1, ROWS), (5, 5)]:
        ids = [name for rows in source.read(start, stop) for name in source.ids(rows)]
        assert ids == [f"{row:08d}" for row in range(start, stop)]
    assert source.frame(source.partitions()[0])["label"].iloc[7] == "7"
    assert fingerprint(path) == before


def test_ranks_read_side_by_side_while_another_holds_the_lock(leveldb: tuple[Path, np.ndarray]) -> None:
    """LevelDB lets one process in; views let in any number, in this process, in others, and beside a reader's lock."""
    path, _ = leveldb
    spec = open_source(layer(path)).spec()
    code = "import json, sys; from cosdask.data import Source; "
    code += "source = Source.from_spec(json.load(sys.stdin)); "
    code += "print(sum(rows.num_rows for rows in source.read(1000, 2000)))"
    holder = plyvel.DB(str(path))
    try:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, input=json.dumps(spec), capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.split() == ["1000"]
        plan = RowPlan(ROWS, 2)
        with (
            Feed(Source.from_spec(spec), plan, 0, batch_size=500) as first,
            Feed(Source.from_spec(spec), plan, 1, batch_size=500) as second,
        ):
            labels = [next(feed)["label"] for feed in (first, second, first, second, first, second)]
    finally:
        holder.close()
    assert sorted(np.concatenate(labels).tolist()) == list(range(ROWS))


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The view is removed with its last reader."""
    write(tmp_path / "rows", 50)
    views = tmp_path / "views"
    views.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(views))
    reading = open_source(layer(tmp_path / "rows")).stream(0, 10, 2)
    next(reading)
    assert len(os.listdir(views)) == 1
    reading.close()
    assert os.listdir(views) == []


def test_a_damaged_table_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checksums are heeded: damage is an error with the path, when counting and when reading with a kept count."""
    monkeypatch.setenv("COSDASK_CACHE_DIR", str(tmp_path / "cache"))
    write(tmp_path / "rows")
    spec = open_source(layer(tmp_path / "rows")).spec()
    table = sorted((tmp_path / "rows").glob("*.ldb"))[1]
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 0xFF
    table.write_bytes(data)
    with pytest.raises(DataError, match=r"rows: damaged LevelDB: .*[Cc]orrupt"):
        open_source(layer(tmp_path / "rows")).index()
    with pytest.raises(DataError, match="damaged LevelDB"):
        list(Source.from_spec(spec).batches(epochs=1))
    table.unlink()
    with pytest.raises(DataError, match="damaged LevelDB"):
        open_source(layer(tmp_path / "rows")).index()


def test_a_bad_datum_is_named(tmp_path: Path) -> None:
    """The row's number and key are in the message."""
    write(tmp_path / "rows", 20)
    database = plyvel.DB(str(tmp_path / "rows"))
    database.put(b"00000007", b"\xff\xff\xff")
    database.close()
    with pytest.raises(DataError, match=r'rows: row 7 \(id "00000007"\): not a Datum'):
        list(open_source(layer(tmp_path / "rows", 4)).batches(epochs=1))


def test_what_is_no_leveldb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, empty, an LMDB (the likely mistake, for backend's default is LEVELDB), elsewhere, without plyvel."""
    with pytest.raises(StorageError, match="no such LevelDB"):
        open_source(layer(tmp_path / "none")).index()
    plyvel.DB(str(tmp_path / "empty"), create_if_missing=True).close()
    with pytest.raises(DataError, match="the LevelDB is empty"):
        open_source(layer(tmp_path / "empty")).index()
    write_lmdb(tmp_path / "lmdb", np.zeros((2, 3, 3), np.uint8), [0, 1])
    with pytest.raises(DataError, match="it is an LMDB: state backend: LMDB"):
        open_source(layer(tmp_path / "lmdb")).index()
    with pytest.raises(DataError, match="it is a LevelDB: state backend: LEVELDB"):
        open_source(layer(tmp_path / "empty", backend="backend: LMDB")).index()
    with pytest.raises(ConfigError, match="local disks only; convert it to an LMDB"):
        open_source(layer("memory://rows")).index()
    monkeypatch.setitem(sys.modules, "plyvel", None)
    with pytest.raises(ConfigError, match=r'pip install "cosdask\[leveldb\]"'):
        _ = open_source(layer(tmp_path / "empty")).tops
