"""Dataframes as sources: parquet, tables in memory, Arrow files; CaffeOnSpark's columns and their defaults."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from cosdask.data import FrameSource, Source, open_source, write_parquet
from cosdask.errors import ConfigError, DataError, StorageError

Digits = tuple[np.ndarray, np.ndarray]
SIZES = "channels: 3 height: 9 width: 8"


def labels_of(source: Source) -> list[float]:
    """All labels in order."""
    return np.concatenate([batch["label"].ravel() for batch in source.batches(epochs=1)]).tolist()


def test_parquet_gives_the_same_batches_as_the_lmdb(
    parquet_path: Path, lmdb_path: Path, digits: Digits, make_layer: Callable[..., Any]
) -> None:
    """The same rows from parquet (interleaved) and from an LMDB (planes) are the same batches."""
    transform = "crop_size: 5 mirror: true scale: 0.5 mean_value: 3"
    parquet = open_source(make_layer("parquet", parquet_path, 10, transform, SIZES), "TRAIN")
    memory = open_source(make_layer("memory_lmdb", lmdb_path, 10, transform, SIZES), "TRAIN")
    assert parquet.rows == 23
    for left, right in zip(parquet.batches(epochs=2), memory.batches(epochs=2), strict=True):
        for top in ("data", "label"):
            np.testing.assert_array_equal(left[top], right[top])


def test_row_groups_are_blocks_and_frames_keep_columns(parquet_path: Path, make_layer: Callable[..., Any]) -> None:
    """Counting reads footers only; a frame has the columns in their order."""
    source = open_source(make_layer("parquet", parquet_path, 4, more=SIZES), options={"partitions": 4})
    assert [block.rows for block in source.index().blocks] == [5, 5, 5, 5, 3]
    frames = [source.frame(partition) for partition in source.partitions()]
    frame = pd.concat(frames)
    pd.testing.assert_frame_equal(
        frame.reset_index(drop=True).astype(object), pd.read_parquet(parquet_path).astype(object)
    )
    for start, stop in [(0, 23), (4, 6), (7, 8), (5, 20), (22, 23)]:
        ids = [name for rows in source.read(start, stop, 3) for name in source.ids(rows)]
        assert ids == [f"{row:08d}" for row in range(start, stop)]


def test_folders_and_globs_of_parts(tmp_path: Path, digits: Digits, make_layer: Callable[..., Any]) -> None:
    """Spark's folders: parts in the order of their names, markers and hidden files left out, empty parts fine."""
    images, labels = digits
    folder = tmp_path / "rows"
    folder.mkdir()
    write_parquet(folder / "part-00001.parquet", images[10:], labels[10:])
    write_parquet(folder / "part-00000.parquet", images[:10], labels[:10])
    write_parquet(folder / "part-00002.parquet", images[:0], labels[:0])
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / ".part-00000.parquet.crc").write_bytes(b"x")
    for name in (folder, folder / "part-*.parquet", f"file://{folder}"):
        assert labels_of(open_source(make_layer("parquet", name, 10, more=SIZES))) == labels.tolist()


def test_a_url_of_another_filesystem(digits: Digits, make_layer: Callable[..., Any]) -> None:
    """Parquet is read through fsspec, here from its in-memory filesystem."""
    write_parquet("memory://frames/rows.parquet", *digits)
    source = open_source(make_layer("parquet", "memory://frames/rows.parquet", 10, more=SIZES))
    assert labels_of(source) == digits[1].tolist()


def test_defaults_of_missing_columns(tmp_path: Path, digits: Digits, make_layer: Callable[..., Any]) -> None:
    """Only label and data are required; sizes are then the layer's, encoded is image_encoded, ids are empty."""
    images, _ = digits
    raw = [image.transpose(1, 2, 0).tobytes() for image in images]
    pq.write_table(pa.table({"label": pa.array([7] * 23), "data": raw}), tmp_path / "raw.parquet")
    source = open_source(make_layer("parquet", tmp_path / "raw.parquet", 23, more=SIZES))
    batch = next(source.batches())
    np.testing.assert_array_equal(batch["data"], images.astype(np.float32))
    assert batch["label"].ravel().tolist() == [7.0] * 23
    sized = pa.table({"label": ["7"] * 23, "data": raw, "height": [9] * 23, "width": [8] * 23})
    pq.write_table(sized, tmp_path / "sized.parquet")
    sized_source = open_source(make_layer("parquet", tmp_path / "sized.parquet", 23, more=SIZES))
    np.testing.assert_array_equal(next(sized_source.batches())["data"], images.astype(np.float32))
    assert set(source.ids(next(source.read(0, 23)))) == {""}
    png = [cv2.imencode(".png", image.transpose(1, 2, 0))[1].tobytes() for image in images]
    pq.write_table(pa.table({"label": ["7"] * 23, "data": png}), tmp_path / "png.parquet")
    layer = make_layer("parquet", tmp_path / "png.parquet", 23, more=f"{SIZES} image_encoded: true")
    np.testing.assert_array_equal(next(open_source(layer).batches())["data"], images.astype(np.float32))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"lable": ["1"], "data": [b"x"]}, r"no column 'label'.*Did you mean \"lable\""),
        ({"label": ["1"]}, "no column 'data'"),
        ({"label": ["7.0"], "data": [bytes(216)]}, r"row 0.*'7\.0'.*not a whole number"),
        ({"label": ["cat"], "data": [bytes(216)]}, r"row 0.*'cat'"),
        ({"label": [1.5], "data": [bytes(216)]}, "'label' holds double"),
        ({"label": pa.array([None], pa.string()), "data": [bytes(216)]}, "label is empty"),
        ({"label": ["1"], "data": [b"short"]}, "5 values for 3 x 9 x 8"),
        ({"label": ["1"], "data": pa.array([None], pa.binary())}, "0 values for"),
        ({"label": ["1"], "data": [3]}, "'data' holds int64"),
        ({"label": ["1"], "data": [bytes(216)], "height": ["tall"]}, "'height' holds string"),
    ],
)
def test_wrong_columns_are_named(
    columns: dict[str, Any], message: str, tmp_path: Path, make_layer: Callable[..., Any]
) -> None:
    """Missing columns, wrong types and labels that are no numbers say which column and row."""
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    source = open_source(make_layer("parquet", tmp_path / "rows.parquet", 1, more=SIZES))
    with pytest.raises(DataError, match=message):
        next(source.batches())


def test_an_encoded_row_must_have_the_size_it_states(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """A row whose sizes differ from its image's is an error, not a silent skip."""
    png = cv2.imencode(".png", np.zeros((9, 8, 3), np.uint8))[1].tobytes()
    table = pa.table({"label": ["1"], "data": [png], "height": [8], "width": [8], "encoded": [True]})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="says 8 x 8, but its image is 9 x 8"):
        next(open_source(make_layer("parquet", tmp_path / "rows.parquet", 1, more=SIZES)).batches())


def test_missing_damaged_and_empty_parquet(tmp_path: Path, parquet_path: Path, make_layer: Callable[..., Any]) -> None:
    """Each is an error that names the file."""
    with pytest.raises(StorageError, match=r"no such parquet.*rows\.parquet"):
        open_source(make_layer("parquet", parquet_path.parent / "row.parquet", 1, more=SIZES)).index()
    (tmp_path / "bad.parquet").write_bytes(parquet_path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"bad\.parquet: not a readable parquet"):
        open_source(make_layer("parquet", tmp_path / "bad.parquet", 1, more=SIZES)).index()
    data = bytearray(parquet_path.read_bytes())
    data[4:400] = b"\xff" * 396
    (tmp_path / "torn.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"torn\.parquet: row group 0"):
        list(open_source(make_layer("parquet", tmp_path / "torn.parquet", 1, more=SIZES)).batches(epochs=1))
    write_parquet(tmp_path / "none.parquet", np.zeros((0, 3, 9, 8), np.uint8), [])
    with pytest.raises(DataError, match="no rows"):
        open_source(make_layer("parquet", tmp_path / "none.parquet", 1, more=SIZES)).index()


def test_an_unknown_format_is_refused(parquet_path: Path, make_layer: Callable[..., Any]) -> None:
    """The nearest name is offered."""
    source = open_source(make_layer("parquet", parquet_path, 1, more=SIZES + ' dataframe_format: "parket"'))
    with pytest.raises(ConfigError, match=r'"parket" is not known.*Did you mean "parquet"'):
        source.index()


def test_frames_in_memory_and_arrow_files(
    parquet_path: Path, tmp_path: Path, digits: Digits, make_layer: Callable[..., Any]
) -> None:
    """A pandas frame, an Arrow table and Arrow files with several batches are the same source."""
    layer = make_layer("parquet", "unused", 10, "mirror: true crop_size: 5", SIZES)
    wanted = list(open_source(make_layer("parquet", parquet_path, 10, "mirror: true crop_size: 5", SIZES)).batches(2))
    table = pq.read_table(parquet_path)
    names = []
    for start, stop in [(0, 0), (0, 7), (7, 23)]:
        names.append(str(tmp_path / f"rows-{start}-{stop}.arrow"))
        with pa.OSFile(names[-1], "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table.slice(start, stop - start), max_chunksize=4)
    staged = FrameSource(layer, files=names)
    sources = [
        FrameSource(layer, frame=table.to_pandas()),
        FrameSource(layer, frame=table.to_pandas(types_mapper=pd.ArrowDtype)),
        FrameSource(layer, frame=table),
        staged,
        pickle.loads(pickle.dumps(staged)),
        Source.from_spec(staged.spec()),
    ]
    for source in sources:
        assert source.rows == 23
        for left, right in zip(source.batches(2), wanted, strict=True):
            for top in ("data", "label"):
                np.testing.assert_array_equal(left[top], right[top])


def test_a_frames_rows_survive_a_source_round_trip(lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """The frame of an LMDB is itself a source with the same batches (what staging a dask frame relies on)."""
    lmdb = open_source(make_layer("memory_lmdb", lmdb_path, 10, more=SIZES))
    frame = lmdb.to_dask().compute(scheduler="synchronous")
    copy = FrameSource(make_layer("parquet", "unused", 10, more=SIZES), frame=frame)
    for left, right in zip(lmdb.batches(1), copy.batches(1), strict=True):
        np.testing.assert_array_equal(left["data"], right["data"])


def test_frames_that_cannot_work(make_layer: Callable[..., Any], tmp_path: Path) -> None:
    """A column that Dask turned into text, no rows at all, memory sent to another process, files that are none."""
    layer = make_layer("parquet", "unused", 10, more=SIZES)
    with pytest.raises(DataError, match="Dask turned the column into text"):
        FrameSource(layer, frame=pd.DataFrame({"label": ["1"], "data": [str(b"\x00\x01")]}))
    with pytest.raises(ConfigError, match="Arrow files first"):
        FrameSource(layer, frame=pd.DataFrame({"label": ["1"], "data": [bytes(216)]})).spec()
    with pytest.raises(ConfigError, match="either a frame"):
        FrameSource(layer)
    with pytest.raises(StorageError, match="no such file"):
        FrameSource(layer, files=[str(tmp_path / "gone.arrow")]).index()
    (tmp_path / "bad.arrow").write_bytes(b"ARROW1 no")
    with pytest.raises(DataError, match="not a readable Arrow file"):
        FrameSource(layer, files=[str(tmp_path / "bad.arrow")]).index()
    with pytest.raises(DataError, match="no rows"):
        list(FrameSource(layer, frame=pd.DataFrame({"label": [], "data": []})).batches())


def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, digits: Digits, make_layer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 3: its rows would be missing without a word; globs take folders whole, and no marks."""
    for day, part in ((1, slice(0, 10)), (2, slice(10, 23))):
        (tmp_path / "rows" / f"day={day}").mkdir(parents=True)
        write_parquet(tmp_path / "rows" / f"day={day}" / "part.parquet", digits[0][part], digits[1][part])
    (tmp_path / "rows" / "_SUCCESS").write_bytes(b"")
    for place in (tmp_path / "rows", tmp_path / "rows" / "*", tmp_path / "rows" / "day=*"):
        assert labels_of(open_source(make_layer("parquet", place, 23, more=SIZES))) == digits[1].tolist()
    listing = LocalFileSystem.ls

    def ls(self: Any, path: str, **keywords: Any) -> Any:
        if str(path).endswith("day=2"):
            raise PermissionError(13, "Permission denied", path)
        return listing(self, path, **keywords)

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    with pytest.raises(StorageError, match=r"day=2: cannot be listed: .*Permission denied"):
        _ = open_source(make_layer("parquet", tmp_path / "rows", 23, more=SIZES)).rows
