"""SeqImageDataSource: CaffeOnSpark's SequenceFiles as a source."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pytest

from cosdask.data import Source, open_source
from cosdask.data.hadoop import RowKey, SequenceWriter, pair_key, row_key, write_bytes
from cosdask.errors import ConfigError, DataError, StorageError
from cosdask.storage import atomic_output

Digits = tuple[np.ndarray, np.ndarray]
_SIZES = "channels: 3 height: 9 width: 8"


def write(place: str | Path, rows: list[tuple[bytes, bytes]], **form: Any) -> None:
    with atomic_output(place) as file, SequenceWriter(file, **form) as writer:
        for key, value in rows:
            writer.append(write_bytes(key), write_bytes(value))


def raw_rows(digits: Digits) -> list[tuple[bytes, bytes]]:
    """As LMDB2Sequence writes raw datums: sizes in the key, pixels interleaved."""
    return [
        (row_key(RowKey(f"{i:08d}", str(label), 3, 9, 8, False)), image.transpose(1, 2, 0).tobytes())
        for i, (image, label) in enumerate(zip(*digits, strict=True))
    ]


def layer_of(make_layer: Callable[..., Any], source: object, batch: int, more: str = _SIZES) -> Any:
    layer = make_layer("parquet", source, batch, more=more)
    layer.source_class = "com.yahoo.ml.caffe.SeqImageDataSource"
    return layer


@pytest.fixture(params=["local", "memory"])
def parts(request: pytest.FixtureRequest, tmp_path: Path, digits: Digits) -> str:
    """The digits in three parts of different compression, beside Hadoop's marks, on a local and another filesystem."""
    folder = str(tmp_path / "seq") if request.param == "local" else "memory://seq"
    rows = raw_rows(digits)
    write(f"{folder}/part-00000", rows[:10])
    write(f"{folder}/part-00001", [], compression="block")
    write(f"{folder}/part-00002", rows[10:16], compression="block", codec="snappy")
    write(f"{folder}/part-00003", rows[16:], compression="record", codec="bzip2")
    with fsspec.open(f"{folder}/_SUCCESS", "wb"), fsspec.open(f"{folder}/.part-00000.crc", "wb"):
        pass
    return folder


def test_batches_are_the_rows_in_order(parts: str, digits: Digits, make_layer: Callable[..., Any]) -> None:
    """A folder of parts, an empty one too, is one source: every row once, in the parts' order."""
    source = open_source(layer_of(make_layer, parts, 10), "TEST")
    batches = list(source.batches(epochs=1))
    assert [len(batch["label"]) for batch in batches] == [10, 10, 3]
    np.testing.assert_array_equal(np.concatenate([b["data"] for b in batches]), digits[0].astype(np.float32))
    labels = np.concatenate([b["label"].ravel() for b in batches])
    np.testing.assert_array_equal(labels, digits[1].astype(np.float32))
    assert source.tops == {"data": (10, 3, 9, 8), "label": (10, 1, 1, 1)}


def test_any_range_and_partition_reads_those_rows(parts: str, make_layer: Callable[..., Any]) -> None:
    """Reading begins in the middle of parts and blocks; frames have CaffeOnSpark's columns."""
    source = open_source(layer_of(make_layer, parts, 4), options={"partitions": 5})
    for start in range(23):
        for stop in (start, start + 1, 23):
            ids = [name for rows in source.read(start, stop, 3) for name in source.ids(rows)]
            assert ids == [f"{row:08d}" for row in range(start, stop)]
            views = [name for rows in source.stream(start, stop, 3) for name in source.ids(rows)]
            assert views == ids
    frames = [source.frame(partition) for partition in source.partitions()]
    assert [name for frame in frames for name in frame["id"]] == [f"{row:08d}" for row in range(23)]
    row = frames[1].iloc[0]
    assert list(frames[0].columns) == ["id", "label", "channels", "height", "width", "encoded", "data"]
    assert (row["channels"], row["height"], row["width"], row["encoded"]) == (3, 9, 8, False)
    copies = [pickle.loads(pickle.dumps(source)), Source.from_spec(source.spec())]
    assert all(next(copy.batches())["label"].tolist() == next(source.batches())["label"].tolist() for copy in copies)


def test_pairs_are_encoded_images_of_the_layers_size(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """As Binary2Sequence writes files: the image is decoded to the layer's channels, -resize brings it to its size."""
    image = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    png = cv2.imencode(".png", image)[1].tobytes()
    write(tmp_path / "part-0", [(pair_key("cat1.png", "1"), png)])
    layer = layer_of(make_layer, tmp_path / "part-0", 1, "channels: 1 height: 6 width: 5")
    layer.source_class = "SeqImageDataSource"
    source = open_source(layer, options={"resize": True})
    batch = next(source.batches())
    gray = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(batch["data"][0, 0], cv2.resize(gray, (5, 6)))
    assert batch["label"].tolist() == [[[[1.0]]]]
    row = source.frame(source.partitions()[0]).iloc[0]
    assert (row["id"], row["label"], row["channels"], row["height"]) == ("cat1.png", "1", 1, 0)
    assert row["encoded"] and row["data"] == png


def test_large_files_are_counted_by_ranges(
    tmp_path: Path, digits: Digits, make_layer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges are counted side by side and fit together; the count is kept; damage between them is found."""
    monkeypatch.setattr("cosdask.data.sequence._RANGE", 64 << 10)
    monkeypatch.setattr("cosdask.data.sequence._BLOCK_BYTES", 100_000)
    rows = raw_rows(digits) * 60
    write(tmp_path / "rows.seq", rows, sync=bytes(range(16)))
    layer = layer_of(make_layer, tmp_path / "rows.seq", 4)
    source = open_source(layer)
    assert source.rows == len(rows)
    assert len(source.index().blocks) > 3
    with monkeypatch.context() as patch:
        patch.setattr("cosdask.data.sequence.SequenceSource._walk", lambda self: pytest.fail("counted again"))
        assert open_source(layer).rows == len(rows)
    # a mark inside of a record, as an attacker or a copied file may bring it
    data = bytearray((tmp_path / "rows.seq").read_bytes())
    place = (64 << 10) + 200
    data[place : place + 20] = b"\xff" * 4 + bytes(range(16))
    (tmp_path / "rows.seq").write_bytes(data)
    with pytest.raises(DataError, match=r"rows\.seq: .*damaged SequenceFile"):
        open_source(layer).index()


def test_workers_count_shares_of_large_files_far_away(
    parts: str, digits: Digits, make_layer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shares together are the index that one worker counts, and it is kept; local files are not worth it."""
    monkeypatch.setattr("cosdask.data.sequence._SHARED_BYTES", 1000)
    monkeypatch.setattr("cosdask.data.sequence._BLOCK_ROWS", 2)
    layer = layer_of(make_layer, parts, 4)
    alone = open_source(layer)
    assert alone.index().rows == 23
    with monkeypatch.context() as patch:
        patch.setattr("cosdask.data.sequence.find_index", lambda *_: None)
        shared = open_source(layer)
        shares = shared.count_shares(4)
    assert len(shares) == (4 if parts.startswith("memory") else 0)
    if shares:
        shared.take_counts([block for share in json.loads(json.dumps(shares)) for block in shared.count_share(share)])
        assert [block.rows for block in shared.index().blocks] == [block.rows for block in alone.index().blocks]
        assert open_source(layer).count_shares(4) == []


def test_bad_files_and_rows_are_named(tmp_path: Path, digits: Digits, make_layer: Callable[..., Any]) -> None:
    """Missing, empty, foreign, of other classes, cut short; a bad key, a bad label, pixels that do not fit."""
    with pytest.raises(StorageError, match=r"no such SequenceFile file or folder"):
        open_source(layer_of(make_layer, tmp_path / "lost", 4)).index()
    with pytest.raises(ConfigError, match="names no source"):
        open_source(layer_of(make_layer, "", 4)).index()
    write(tmp_path / "empty", [])
    with pytest.raises(DataError, match="hold no rows"):
        open_source(layer_of(make_layer, tmp_path / "empty", 4)).index()
    write(tmp_path / "texts", [], key_class="org.apache.hadoop.io.Text")
    with pytest.raises(DataError, match=r"keys of org.apache.hadoop.io.Text.*cosdask peek"):
        open_source(layer_of(make_layer, tmp_path / "texts", 4)).index()
    rows = raw_rows(digits)
    write(tmp_path / "cut", rows)
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-5])
    with pytest.raises(DataError, match=r"cut: byte \d+: damaged SequenceFile: .* left"):
        open_source(layer_of(make_layer, tmp_path / "cut", 4)).index()
    for row, message in [
        ((b"no key", b""), r"row 5: not a serialized Java object"),
        ((pair_key("cat", "7.0"), b"x"), r"row 5 \(id \"cat\"\): no image|label '7.0'"),
        ((row_key(RowKey("x", "1", 3, 9, 9, False)), rows[0][1]), r"row 5 \(id \"x\"\): 216 values for 3 x 9 x 9"),
    ]:
        write(tmp_path / "bad", [*rows[:5], row])
        with pytest.raises(DataError, match=message):
            list(open_source(layer_of(make_layer, tmp_path / "bad", 4)).batches(epochs=1))


def test_a_file_that_comes_meanwhile_changes_no_row(
    tmp_path: Path, digits: Digits, make_layer: Callable[..., Any]
) -> None:
    """Invariant 3: blocks count files, so whoever takes them over takes the list of files, too."""
    rows, folder = raw_rows(digits), tmp_path / "rows"
    write(folder / "part-1", rows[:10])
    write(folder / "part-2", rows[10:])
    spec = open_source(layer_of(make_layer, folder, 23)).spec()
    write(folder / "part-0", rows[:5])
    batch = next(Source.from_spec(spec).batches())
    assert batch["label"].ravel().tolist() == digits[1].tolist()
