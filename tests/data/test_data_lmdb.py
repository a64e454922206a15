"""LMDBs of Datums: rows in order, counted once, damage named."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest

from cosdask.data import Draw, Feed, RowPlan, Source, open_source, write_lmdb
from cosdask.errors import ConfigError, DataError, StorageError
from cosdask.proto import array_to_blob, caffe_pb2

Digits = tuple[np.ndarray, np.ndarray]


def put(path: Path, rows: dict[bytes, bytes]) -> None:
    """Write raw records."""
    environment = lmdb.open(str(path), map_size=1 << 22)
    with environment.begin(write=True) as transaction:
        for key, value in rows.items():
            transaction.put(key, value)
    environment.close()


def test_batches_are_the_rows_in_order(lmdb_path: Path, digits: Digits, make_layer: Callable[..., Any]) -> None:
    """epochs=1: every row once, in storage order, the last batch short; None: wrapping round."""
    source = open_source(make_layer("lmdb", lmdb_path, 10), "TEST")
    images, labels = digits
    batches = list(source.batches(epochs=1))
    assert [len(batch["label"]) for batch in batches] == [10, 10, 3]
    np.testing.assert_array_equal(np.concatenate([b["data"] for b in batches]), images.astype(np.float32))
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in batches]), labels.astype(np.float32))
    endless = source.batches()
    third = [next(endless) for _ in range(3)][2]
    np.testing.assert_array_equal(third["label"], np.r_[labels[20:], labels[:7]].astype(np.float32))


def test_any_range_reads_those_rows(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """Reading from the middle finds the row however far it lies from a remembered key."""
    images = np.arange(3000, dtype=np.uint16).view(np.uint8).reshape(3000, 2, 1, 1)
    write_lmdb(tmp_path / "rows", images, [0] * 3000)
    source = open_source(make_layer("lmdb", tmp_path / "rows", 10))
    assert len(source.index().blocks) > 1
    for start, stop in [(0, 1), (1023, 1026), (1024, 1024), (2047, 3000), (2999, 3000), (0, 3000)]:
        batches = list(source.read(start, stop, chunk=700))
        ids = [name for rows in batches for name in source.ids(rows)]
        assert ids == [f"{row:08d}" for row in range(start, stop)]
        assert all(rows.num_rows <= 700 for rows in batches)


def test_shapes(lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """Data layers take the first row's shape, after the crop; MemoryData its own fields, with 4-D labels."""
    assert open_source(make_layer("lmdb", lmdb_path, 4)).tops == {"data": (4, 3, 9, 8), "label": (4,)}
    assert open_source(make_layer("lmdb", lmdb_path, 4, "crop_size: 5")).tops["data"] == (4, 3, 5, 5)
    memory = open_source(make_layer("memory_lmdb", lmdb_path, 4, more="channels: 3 height: 9 width: 8"))
    assert memory.tops == {"data": (4, 3, 9, 8), "label": (4, 1, 1, 1)}
    batch = next(memory.batches())
    assert {top: array.shape for top, array in batch.items()} == memory.tops


def test_partitions_are_all_rows_and_frames_have_caffeonsparks_columns(
    lmdb_path: Path, digits: Digits, make_layer: Callable[..., Any]
) -> None:
    """However many partitions are asked for, none is empty; raw pixels are interleaved, labels text."""
    images, labels = digits
    for count in (1, 4, 100):
        source = open_source(make_layer("lmdb", lmdb_path, 4), options={"partitions": count})
        partitions = source.partitions()
        assert len(partitions) == min(count, 23)
        frames = [source.frame(partition) for partition in partitions]
        assert all(len(frame) for frame in frames)
        ids = [name for frame in frames for name in frame["id"]]
        assert ids == [f"{row:08d}" for row in range(23)]
    frame = open_source(make_layer("lmdb", lmdb_path, 4)).frame(source.partitions()[5])
    assert list(frame.columns) == ["id", "label", "channels", "height", "width", "encoded", "data"]
    row = frame.iloc[0]
    assert (row["label"], row["channels"], row["height"], row["width"]) == (str(labels[5]), 3, 9, 8)
    assert not row["encoded"]
    np.testing.assert_array_equal(np.frombuffer(row["data"], np.uint8).reshape(9, 8, 3), images[5].transpose(1, 2, 0))


def test_dask_keeps_bytes_as_bytes(lmdb_path: Path, digits: Digits, make_layer: Callable[..., Any]) -> None:
    """With Dask's default settings the binary column survives, and types are known before computing."""
    source = open_source(make_layer("lmdb", lmdb_path, 4), options={"partitions": 3})
    ddf = source.to_dask()
    assert ddf.npartitions == 3
    frame = ddf.compute(scheduler="synchronous")
    assert list(frame.dtypes.astype(str)) == list(ddf.dtypes.astype(str))
    assert frame["data"].iloc[7] == digits[0][7].transpose(1, 2, 0).tobytes()
    assert ddf.map_partitions(len).compute(scheduler="synchronous").sum() == 23


def test_a_source_pickles_and_goes_through_its_spec(
    lmdb_path: Path, make_layer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process rebuilds the source from JSON values, without counting again."""
    import json

    source = open_source(make_layer("lmdb", lmdb_path, 4, "crop_size: 5"), "TRAIN", options={"seed": 3})
    wanted = next(source.batches())
    spec = json.loads(json.dumps(source.spec()))
    copies = [pickle.loads(pickle.dumps(source)), Source.from_spec(spec)]
    monkeypatch.setattr(type(source), "_count", lambda self: pytest.fail("counted again"))
    for copy in copies:
        assert copy.rows == 23
        assert copy.tops == source.tops
        np.testing.assert_array_equal(next(copy.batches())["data"], wanted["data"])


def test_counting_is_kept_until_the_file_changes(
    tmp_path: Path, digits: Digits, make_layer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second look at the same file walks no keys; a file that changed is counted again; a damaged count too."""
    monkeypatch.setenv("COSDASK_CACHE_DIR", str(tmp_path / "cache"))
    write_lmdb(tmp_path / "rows", *digits)
    layer = make_layer("lmdb", tmp_path / "rows", 4)
    assert open_source(layer).index().rows == 23
    kept = list((tmp_path / "cache").rglob("*.json"))
    assert len(kept) == 1
    with monkeypatch.context() as patch:
        patch.setattr("cosdask.data.lmdb_tree.LmdbTree.count", lambda self, **_: pytest.fail("counted again"))
        assert open_source(layer).index().rows == 23
    put(tmp_path / "rows", {b"zzz": b""})
    assert open_source(layer).index().rows == 24
    for file in (tmp_path / "cache").rglob("*.json"):
        file.write_text("{")
    assert open_source(layer).index().rows == 24


def test_encoded_rows_of_different_sizes_are_cropped(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """With a crop, encoded images may differ in size; the centre is cut as Caffe cuts it, (size - crop) // 2."""
    images = [np.random.default_rng(k).integers(0, 256, (9 + k, 10, 3), dtype=np.uint8) for k in range(4)]
    files = [cv2.imencode(".png", image)[1].tobytes() for image in images]
    write_lmdb(tmp_path / "rows", files, range(4))
    batch = next(open_source(make_layer("lmdb", tmp_path / "rows", 4, "crop_size: 7"), "TEST").batches())
    for k, image in enumerate(images):
        top = (9 + k - 7) // 2
        np.testing.assert_array_equal(batch["data"][k], image[top : top + 7, 1:8].transpose(2, 0, 1))


def test_memory_layers_decode_by_their_channels_and_resize(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """Rows without sizes decode to the layer's channels; -resize brings them to its height and width."""
    image = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    write_lmdb(tmp_path / "rows", [cv2.imencode(".png", image)[1].tobytes()], [1])
    layer = make_layer("memory_lmdb", tmp_path / "rows", 1, more="channels: 1 height: 6 width: 5")
    with pytest.raises(DataError, match=r"row 0 \(id \"00000000\"\).*12 x 10 where 6 x 5"):
        next(open_source(layer).batches())
    batch = next(open_source(layer, options={"resize": True}).batches())
    gray = cv2.imdecode(cv2.imencode(".png", image)[1], cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(batch["data"][0, 0], cv2.resize(gray, (5, 6)))


def test_missing_empty_and_foreign_folders(tmp_path: Path, lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """A missing LMDB names its neighbors, an empty one and a folder that is none say so."""
    with pytest.raises(StorageError, match=r"no such LMDB.*lmdb"):
        open_source(make_layer("lmdb", lmdb_path.parent / "lmbd", 4)).index()
    put(tmp_path / "empty", {})
    with pytest.raises(DataError, match="empty"):
        open_source(make_layer("lmdb", tmp_path / "empty", 4)).index()
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"no data\.mdb"):
        open_source(make_layer("lmdb", tmp_path / "folder", 4)).index()
    (tmp_path / "folder" / "data.mdb").write_bytes(b"x" * 10000)
    with pytest.raises(DataError, match="not a readable LMDB"):
        open_source(make_layer("lmdb", tmp_path / "folder", 4)).index()


def test_an_lmdb_cut_short_is_an_error_not_a_crash(
    tmp_path: Path, lmdb_path: Path, make_layer: Callable[..., Any]
) -> None:
    """Reading mapped pages beyond the end of the file would kill the process."""
    shutil.copytree(lmdb_path, tmp_path / "cut")
    file = tmp_path / "cut" / "data.mdb"
    file.write_bytes(file.read_bytes()[: 3 * 4096])
    with pytest.raises(DataError, match="cut short"):
        open_source(make_layer("lmdb", tmp_path / "cut", 4)).index()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\xff\xff\xff", "not a Datum"),
        (caffe_pb2.Datum(channels=3, height=9, width=8, data=b"short").SerializeToString(), "5 values for 3 x 9 x 8"),
        (caffe_pb2.Datum(channels=1 << 20, height=1 << 20, width=9, data=b"x").SerializeToString(), "1 values for"),
        (caffe_pb2.Datum(channels=-1, height=-9, width=9, data=b"x" * 81).SerializeToString(), "81 values for"),
        (caffe_pb2.Datum(encoded=True, data=b"no image").SerializeToString(), "no image"),
        (caffe_pb2.Datum(encoded=True).SerializeToString(), "no bytes"),
        (caffe_pb2.Datum(channels=3, height=2, width=2, data=bytes(12)).SerializeToString(), "2 x 2 where 9 x 8"),
        (caffe_pb2.Datum(channels=1, height=9, width=8, data=bytes(72)).SerializeToString(), "1 channels where 3"),
        (caffe_pb2.Datum(channels=1, height=1, width=1, float_data=[1.0]).SerializeToString(), "0 values for"),
    ],
)
def test_a_bad_row_is_named(
    value: bytes, message: str, tmp_path: Path, lmdb_path: Path, make_layer: Callable[..., Any]
) -> None:
    """A damaged row is an error with the source, the row's number and its id, wherever it lies in the batch."""
    shutil.copytree(lmdb_path, tmp_path / "bad")
    put(tmp_path / "bad", {b"00000006": value})
    source = open_source(make_layer("lmdb", tmp_path / "bad", 4), "TEST")
    batches = source.batches()
    next(batches)
    with pytest.raises(DataError, match=message) as caught:
        next(batches)
    assert caught.value.where["row"] == 6
    assert caught.value.where["id"] == "00000006"
    assert str(tmp_path / "bad") in str(caught.value)


def test_images_smaller_than_the_crop(lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """A crop larger than the images is refused before anything is read in bulk."""
    with pytest.raises(DataError, match=r"9 x 8 are smaller than crop_size 9"):
        _ = open_source(make_layer("lmdb", lmdb_path, 4, "crop_size: 9")).tops


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_images_that_the_mean_does_not_fit(
    batch: int, phase: str, tmp_path: Path, make_layer: Callable[..., Any]
) -> None:
    """Caffe's CHECK_EQ of sizes, also where all rows of a batch have one size: no wrong pixel of the mean is taken."""
    datums = [caffe_pb2.Datum(channels=1, height=4, width=width, data=bytes(4 * width)) for width in (4, 8)]
    put(tmp_path / "lmdb", {b"%d" % i: datum.SerializeToString() for i, datum in enumerate(datums)})
    mean = array_to_blob(np.ones((1, 4, 4), np.float32))
    (tmp_path / "mean.binaryproto").write_bytes(mean.SerializeToString())
    transform = f'crop_size: 3 mean_file: "{tmp_path}/mean.binaryproto"'
    source = open_source(make_layer("lmdb", tmp_path / "lmdb", batch, transform), phase)
    with pytest.raises(DataError, match=r"4 x 8|\(1, 4, 8\)") as caught:
        list(source.batches())
    assert caught.value.where["row"] == 1


def test_settings_that_cannot_work(lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """No batch size, no sizes, no source, mean_file and mean_value together."""
    with pytest.raises(ConfigError, match="batch_size is 0"):
        open_source(make_layer("lmdb", lmdb_path, 0))
    with pytest.raises(ConfigError, match="channels, height and width"):
        _ = open_source(make_layer("memory_lmdb", lmdb_path, 4)).tops
    with pytest.raises(ConfigError, match="names no source"):
        open_source(make_layer("lmdb", "", 4)).index()
    with pytest.raises(ConfigError, match="not both"):
        _ = open_source(make_layer("lmdb", lmdb_path, 4, 'mean_file: "m" mean_value: 3')).tops


def test_rand_skip_begins_later_and_goes_round(lmdb_path: Path, digits: Digits, make_layer: Callable[..., Any]) -> None:
    """Invariant 4: rand_skip moves the first row as the seed says; the rows go on in order, and none is left out."""
    layer = make_layer("lmdb", lmdb_path, 23)
    layer.data_param.rand_skip = 1000
    labels, skips = digits[1].astype(np.float32), set()
    for seed in range(5):
        source = open_source(layer, options={"seed": seed})
        skip = source.skipped(seed)
        skips.add(skip)
        endless = source.batches()
        np.testing.assert_array_equal(next(endless)["label"], np.roll(labels, -skip))
        np.testing.assert_array_equal(next(endless)["label"], np.roll(labels, -skip))
        with Feed(source, RowPlan(23, 1), rank=0, batch_size=5, first_batch=7, seed=seed) as feed:
            np.testing.assert_array_equal(
                next(feed)["label"], np.take(labels, range(skip + 35, skip + 40), mode="wrap")
            )
        assert [len(batch["label"]) for batch in source.batches(epochs=1)] == [23]
    assert len(skips) == 5 and all(0 <= skip < 1000 for skip in skips)


def test_an_image_bomb_is_refused(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """A small PNG that claims 65500 x 65500 pixels takes no memory."""
    import struct
    import zlib

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 65500, 65500, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")
    write_lmdb(tmp_path / "rows", [bomb], [0])
    with pytest.raises(DataError, match="too many pixels"):
        _ = open_source(make_layer("lmdb", tmp_path / "rows", 1)).tops


def test_decoding_is_a_function_of_the_row(lmdb_path: Path, make_layer: Callable[..., Any]) -> None:
    """Invariant 4: crop and mirror of a row do not hang on the batch it is in."""
    source = open_source(make_layer("lmdb", lmdb_path, 4, "crop_size: 5 mirror: true"), "TRAIN")
    whole = source.decode(next(source.read(0, 23)), Draw.of(1, 2, 0, 23))
    part = source.decode(next(source.read(7, 12)), Draw.of(1, 2, 7, 12))
    for name, array in part.items():
        np.testing.assert_array_equal(array, whole[name][7:12])


def test_rows_of_floats_are_told_apart_in_frames(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """A Datum's ``float_data`` is the frame's; its bytes, of which it has none, are not made up from them."""
    numbers = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    datum = caffe_pb2.Datum(channels=3, height=2, width=2, label=1, float_data=numbers.ravel().tolist())
    put(tmp_path / "floats", {b"0": datum.SerializeToString()})
    source = open_source(make_layer("lmdb", tmp_path / "floats", 1), "TEST")
    frame = source.frame(source.partitions()[0])
    assert not frame["data"][0]
    np.testing.assert_array_equal(np.asarray(frame["float_data"][0]), numbers.transpose(1, 2, 0).ravel())
