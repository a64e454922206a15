"""Converting data sets: any to any, every row once, going on where it was broken off."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import fsspec
import h5py
import lmdb as lmdb_module
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cosdask.convert import KINDS, Form, Pictures, convert, open_input
from cosdask.convert import job as jobs
from cosdask.data import write_lmdb, write_parquet
from cosdask.errors import ConfigError, DataError, StorageError

Row = dict[str, Any]


def rows_of(path: object, kind: str = "", **settings: Any) -> list[Row]:
    """All rows as a reader gives them."""
    found = open_input(str(path), kind, **settings)
    return [row for rows in found.read(0, found.rows) for row in rows.to_pylist()]


def records(path: Path) -> list[tuple[bytes, bytes]]:
    """All keys and values of an LMDB."""
    with (
        lmdb_module.open(str(path), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
        transaction.cursor() as cursor,
    ):
        return list(cursor)


def pixels_of(rows: list[Row]) -> np.ndarray:
    """uint8 (n, height, width, channels)."""
    return np.stack([np.frombuffer(r["data"], np.uint8).reshape(r["height"], r["width"], r["channels"]) for r in rows])


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """37 images uint8 (N, 3, 32, 32)."""
    return np.random.default_rng(5).integers(0, 256, (37, 3, 32, 32), dtype=np.uint8)


@pytest.fixture(scope="module")
def lmdb(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("convert") / "lmdb"
    write_lmdb(path, images, np.arange(37) % 10)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four PNG files and their list."""
    for k in range(4):
        image = np.random.default_rng(k).integers(0, 256, (12 + k, 10, 3), dtype=np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"cat {k}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (tmp_path / "list.txt").write_text("".join(f"cat {k}.png {k % 2}\n" for k in range(4)))
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_in_every_format(kind: str, lmdb: Path, images: np.ndarray, tmp_path: Path) -> None:
    """Rows, labels, pixels and their order survive every format, which is found by its looks."""
    there = tmp_path / {"cifar10": "there.bin"}.get(kind, "there")
    seen: list[tuple[int, int]] = []
    done = convert(open_input(str(lmdb)), str(there), kind, parts=5, progress=lambda *pair: seen.append(pair))
    assert (done.rows, done.skipped, done.parts, done.kept) == (37, [], 5, 0)
    assert seen[-1] == (37, 37) and seen == sorted(seen)
    assert [path.name for path in tmp_path.glob("*.unfinished*")] == []
    place = f"{there}-images-idx3-ubyte" if kind == "idx" else str(there)
    rows = rows_of(place)
    assert [row["label"] for row in rows] == [str(k % 10) for k in range(37)]
    wanted = images.transpose(0, 2, 3, 1)
    if kind == "idx":
        wanted = np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None] for image in wanted])
    np.testing.assert_array_equal(pixels_of(rows), wanted)
    if kind not in ("idx", "cifar10"):
        assert [row["id"] for row in rows] == [f"{k:08d}" for k in range(37)]
    back = tmp_path / "back"
    convert(open_input(place), str(back), "lmdb", parts=3)
    again = rows_of(back)
    np.testing.assert_array_equal(pixels_of(again), wanted)
    assert [int(row["id"]) for row in again] == list(range(37))


def test_an_lmdb_comes_back_byte_for_byte(lmdb: Path, tmp_path: Path) -> None:
    """Keys and datums through a SequenceFile and back are those of the first LMDB."""
    form = Form(compression="block", codec="snappy")
    convert(open_input(str(lmdb)), str(tmp_path / "seq"), "sequence", form=form, parts=2)
    convert(open_input(str(tmp_path / "seq")), str(tmp_path / "lmdb"), "lmdb")
    assert records(tmp_path / "lmdb") == records(lmdb)


def test_a_leveldb_has_the_records_of_the_lmdb(lmdb: Path, tmp_path: Path) -> None:
    """The same keys and datums."""
    plyvel = pytest.importorskip("plyvel")
    convert(open_input(str(lmdb)), str(tmp_path / "leveldb"), "leveldb", parts=4)
    database = plyvel.DB(str(tmp_path / "leveldb"))
    try:
        assert list(database) == records(lmdb)
    finally:
        database.close()


def test_floats_travel_where_there_is_room(tmp_path: Path) -> None:
    """LMDB, parquet and HDF5 hold floats; SequenceFiles of images say that they do not."""
    images = np.random.default_rng(0).normal(size=(7, 2, 3, 4)).astype(np.float32)
    write_lmdb(tmp_path / "lmdb", images, range(7))
    convert(open_input(str(tmp_path / "lmdb")), str(tmp_path / "parquet"), "parquet", parts=2)
    convert(open_input(str(tmp_path / "parquet")), str(tmp_path / "hdf5"), "hdf5", parts=2)
    convert(open_input(str(tmp_path / "hdf5")), str(tmp_path / "back"), "lmdb")
    found = [np.array(row["float_data"], np.float32).reshape(3, 4, 2) for row in rows_of(tmp_path / "back")]
    np.testing.assert_array_equal(np.stack(found), images.transpose(0, 2, 3, 1))
    with pytest.raises(DataError, match=r"lmdb: rows 0 to 7: row \"00000000\" holds floats"):
        convert(open_input(str(tmp_path / "lmdb")), str(tmp_path / "seq"), "sequence", parts=1)
    assert not (tmp_path / "seq").exists()


def test_hdf5_is_what_caffes_layer_reads(lmdb: Path, images: np.ndarray, tmp_path: Path) -> None:
    """The list that was written beside the parts is an HDF5Data layer's source."""
    from google.protobuf import text_format

    from cosdask.data import open_source
    from cosdask.proto import caffe_pb2

    convert(open_input(str(lmdb)), str(tmp_path / "h5"), "hdf5", parts=2)
    text = f'name: "d" type: "HDF5Data" top: "data" top: "label" hdf5_data_param {{ source: "{tmp_path}/h5/list.txt" '
    source = open_source(text_format.Parse(text + "batch_size: 37 }", caffe_pb2.LayerParameter()))
    batch = next(source.batches())
    np.testing.assert_array_equal(batch["data"], images.astype(np.float32))
    np.testing.assert_array_equal(batch["label"], np.arange(37) % 10)


def test_image_files_of_a_list(folder: Path) -> None:
    """Files stay as they are unless asked; with a size and pixels wanted, all become alike."""
    rows = open_input(str(folder / "list.txt"), root=str(folder / "images"))
    convert(rows, str(folder / "seq"), "sequence", form=Form(key="tuple2"))
    found = rows_of(folder / "seq")
    files = [(folder / "images" / f"cat {k}.png").read_bytes() for k in range(4)]
    assert [(row["id"], row["label"], row["data"]) for row in found] == [
        (f"cat {k}.png", str(k % 2), files[k]) for k in range(4)
    ]
    convert(rows, str(folder / "raw"), "lmdb", pictures=Pictures(height=6, width=5, decode=True))
    for row, file in zip(rows_of(folder / "raw"), files, strict=True):
        image = cv2.resize(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), (5, 6))
        assert (row["encoded"], row["data"]) == (False, image.tobytes())
    assert rows_of(folder / "raw")[1]["id"] == "00000001_cat 1.png"
    convert(rows, str(folder / "jpg"), "parquet", pictures=Pictures(encode="jpg", gray=True))
    row = rows_of(folder / "jpg")[3]
    assert (row["channels"], row["height"], row["width"], row["encoded"]) == (1, 15, 10, True)
    assert row["data"].startswith(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"row 1 .*3 x 13 x 10 .*all are 3 x 12 x 10 .*--resize"):
        convert(rows, str(folder / "h5"), "hdf5")


def test_bad_lines_and_files_are_named_or_counted(folder: Path) -> None:
    """Invariant 3: nothing is dropped without a word; what is skipped on request is listed, and the rest is whole."""
    (folder / "list.txt").write_text("cat 0.png 0\nlost.png 1\ncat 1.png one\n\nalone\nempty.png 1\ncat 2.png 1\n")
    (folder / "images" / "empty.png").write_bytes(b"")
    root = str(folder / "images")
    with pytest.raises(DataError, match=r"(?s)2 lines.*list.txt:3: .*'one' is not a whole number.*list.txt:5: 'alone'"):
        _ = open_input(str(folder / "list.txt"), root=root).rows
    rows = open_input(str(folder / "list.txt"), root=root, skip=True)
    done = convert(rows, str(folder / "seq"), "sequence", skip=True)
    assert (done.rows, done.left) == (2, 4)
    assert [text.partition(": ")[2][:30] for text in done.skipped] == [
        "'cat 1.png one': the label 'on",
        "'alone': 1 of the 2 fields of ",
        'row 1 (id "lost.png"): its fil',
        'row 2 (id "empty.png"): its fi',
    ]
    assert [row["id"] for row in rows_of(folder / "seq")] == ["cat 0.png", "cat 2.png"]
    done = convert(rows, str(folder / "h5"), "hdf5", skip=True, pictures=Pictures(height=4, width=4))
    assert done.rows == 2
    (folder / "list.txt").write_text("cat 0.png 0\nlost.png 1\n")
    with pytest.raises(DataError, match=r"list.txt:2: .*lost.png.*no such file"):
        convert(open_input(str(folder / "list.txt"), root=root), str(folder / "other"), "sequence")


def test_rows_that_storage_cannot_give_are_skipped_too(tmp_path: Path) -> None:
    """A damaged key of a SequenceFile and a Datum that is none: the rows around them are all there."""
    from cosdask.data.hadoop import SequenceWriter, pair_key, write_bytes

    with (tmp_path / "seq").open("wb") as file, SequenceWriter(file) as writer:
        for k in range(10):
            writer.append(write_bytes(b"junk" if k in (0, 4, 5, 9) else pair_key(f"f{k}", "1")), write_bytes(b"x"))
    rows = open_input(str(tmp_path / "seq"))
    with pytest.raises(DataError, match="row 0: not a serialized Java object"):
        convert(rows, str(tmp_path / "out"), "parquet")
    for kind in ("parquet", "leveldb"):
        done = convert(rows, str(tmp_path / kind), kind, skip=True, parts=3)
        assert (done.rows, done.left) == (6, 4)
        assert [text.partition(", ")[2][:6] for text in done.skipped] == ["row 0:", "row 4:", "row 5:", "row 9:"]
        assert [row["id"][-2:] for row in rows_of(tmp_path / kind)] == ["f1", "f2", "f3", "f6", "f7", "f8"]


def test_a_store_that_lost_its_files_is_not_called_whole(
    lmdb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between giving names to a data set's two files: it is begun anew, never filled up with zeros."""
    rows, out = open_input(str(lmdb)), str(tmp_path / "out")
    with monkeypatch.context() as patch, pytest.raises(Broken):
        patch.setattr(jobs.WorkFolder, "remove", lambda self: (_ for _ in ()).throw(Broken))
        patch.setattr(jobs.WorkFolder, "begin", _begin)
        convert(rows, out, "idx", parts=2)
    with pytest.raises(StorageError, match=r"images-idx3-ubyte: gone; remove .*out\.unfinished"):
        convert(rows, out, "idx", parts=2, overwrite=True)
    np.testing.assert_array_equal(pixels_of(rows_of(f"{out}-images-idx3-ubyte")).shape, (37, 32, 32, 1))


def _begin(self: Any, plan: Any, parts: Any, overwrite: bool) -> Any:
    """As WorkFolder.begin in an empty folder, where removing is what breaks."""
    jobs.atomic_write(f"{self.url}/plan.json", json.dumps({"version": 1, "plan": plan, "parts": parts}))
    return parts


class Broken(Exception):
    """What stands for a killed process."""


@pytest.mark.parametrize("kind", ["parquet", "lmdb", "idx"])
def test_a_broken_conversion_goes_on(kind: str, lmdb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished parts are kept and not made again, nothing half is seen, all rows are there in the end."""
    rows = open_input(str(lmdb))
    made: list[int] = []
    real = jobs._Job.batches

    def batches(self: Any, number: int, bad: list[str]) -> Iterator[Any]:
        made.append(number)
        for batch in real(self, number, bad):
            yield batch.slice(0, 2)
            if breaks and number == 4:
                raise Broken
            yield batch.slice(2)

    monkeypatch.setattr(jobs._Job, "batches", batches)
    breaks = True
    with pytest.raises(Broken):
        convert(rows, str(tmp_path / "out"), kind, parts=6)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("out-*"))
    assert not list((tmp_path / "out.unfinished").glob("parts/*4*"))
    breaks = False
    done = convert(rows, str(tmp_path / "out"), kind, parts=3)
    assert made == [0, 1, 2, 3, 4, 4, 5]
    assert (done.kept, done.parts, done.rows) == (4, 6, 37)
    found = rows_of(f"{tmp_path}/out-images-idx3-ubyte" if kind == "idx" else tmp_path / "out")
    assert [row["label"] for row in found] == [str(k % 10) for k in range(37)]


def test_going_on_gives_the_same_rows(lmdb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between writing a part and noting it down, for a database and for parts: no row twice, none missing."""
    rows = open_input(str(lmdb))
    for kind in ("parquet", "lmdb", "leveldb", "cifar10"):
        out = str(tmp_path / f"{kind}.bin")
        note = jobs.WorkFolder.note

        def killed(self: Any, number: int, done: Any, note: Any = note) -> None:
            if number == 3:
                raise Broken
            note(self, number, done)

        with monkeypatch.context() as patch, pytest.raises(Broken):
            patch.setattr(jobs.WorkFolder, "note", killed)
            convert(rows, out, kind, parts=6)
        done = convert(rows, out, kind, parts=6)
        assert done.kept == 3
        assert [row["label"] for row in rows_of(out)] == [str(k % 10) for k in range(37)]


def test_outputs_are_not_overwritten_and_plans_not_mixed(
    lmdb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there stays until the new one is whole; an unfinished other conversion is not gone on with."""
    out = str(tmp_path / "out")
    rows = open_input(str(lmdb))
    convert(rows, out, "sequence", parts=2)
    with pytest.raises(StorageError, match=r"already there.*--overwrite"):
        convert(rows, out, "parquet")
    with monkeypatch.context() as patch, pytest.raises(Broken):
        patch.setattr(jobs.WorkFolder, "note", lambda *_: (_ for _ in ()).throw(Broken))
        convert(rows, out, "parquet", parts=2, overwrite=True)
    assert len(rows_of(out, "sequence")) == 37
    Path(out).rename(tmp_path / "old")
    with pytest.raises(StorageError, match=r"unfinished conversion of other data.*--overwrite"):
        convert(rows, out, "json", parts=2)
    (tmp_path / "old").rename(out)
    convert(rows, out, "json", parts=2, overwrite=True)
    assert sorted(path.name for path in Path(out).iterdir()) == ["_SUCCESS", "part-00000.json", "part-00001.json"]
    assert len(rows_of(out)) == 37


def test_other_filesystems(lmdb: Path, images: np.ndarray, tmp_path: Path) -> None:
    """Sources and outputs may be URLs; an LMDB is built on a local disk and sent when it is whole."""
    memory = fsspec.filesystem("memory")
    if memory.exists("/converted"):
        memory.rm("/converted", recursive=True)
    convert(open_input(str(lmdb)), "memory://converted/seq", "sequence", parts=3)
    np.testing.assert_array_equal(pixels_of(rows_of("memory://converted/seq")), images.transpose(0, 2, 3, 1))
    convert(open_input("memory://converted/seq"), "memory://converted/lmdb", "lmdb", parts=3)
    memory.get("/converted/lmdb/", str(tmp_path / "copy/"), recursive=True)
    np.testing.assert_array_equal(pixels_of(rows_of(tmp_path / "copy")), images.transpose(0, 2, 3, 1))
    assert memory.ls("/converted", detail=False) == ["/converted/lmdb", "/converted/seq"]


def test_idx_files_packed_and_damaged(lmdb: Path, tmp_path: Path) -> None:
    """MNIST's files as they are downloaded, packed by gzip; damage and a wrong partner are named."""
    convert(open_input(str(lmdb)), str(tmp_path / "train"), "idx", pictures=Pictures(height=8, width=8))
    plain = rows_of(tmp_path / "train-images-idx3-ubyte")
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    packed = open_input(str(tmp_path / "train-images-idx3-ubyte.gz"))
    assert [row for rows in packed.read(20, 30) for row in rows.to_pylist()] == plain[20:30]
    labels = tmp_path / "train-labels-idx1-ubyte"
    good = labels.read_bytes()
    labels.write_bytes(good[:20])
    with pytest.raises(DataError, match=r"labels-idx1-ubyte: the file ends 25 bytes too early"):
        rows_of(tmp_path / "train-images-idx3-ubyte")
    labels.write_bytes(good[:7] + b"\x09" + good[8:])
    with pytest.raises(DataError, match="37 images, but 9 labels"):
        rows_of(tmp_path / "train-images-idx3-ubyte")
    labels.write_bytes(b"junkjunk")
    with pytest.raises(DataError, match="no idx file of labels"):
        rows_of(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(ConfigError, match=r"--label-file"):
        open_input(str(labels), "idx")


def test_tables_of_caffeonsparks_tools(folder: Path) -> None:
    """Binary2DataFrame's columns (SampleID, a whole number, bytes) are read as they are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = (folder / "images" / "cat 0.png").read_bytes()
    table = pa.table({"SampleID": ["a", "b"], "label": pa.array([1, 2], pa.int32()), "data": [file, file]})
    pq.write_table(table, folder / "table.parquet")
    found = rows_of(folder / "table.parquet")
    assert [(row["id"], row["label"], row["encoded"]) for row in found] == [("a", "1", True), ("b", "2", True)]


def test_wrong_settings(lmdb: Path, tmp_path: Path) -> None:
    """Names with the nearest, formats that cannot be told, settings that exclude each other."""
    rows = open_input(str(lmdb))
    for call, message in [
        (lambda: convert(rows, "x", "parquett"), 'no format "parquett".*"parquet"'),
        (lambda: open_input(str(lmdb), "lmbd"), 'no format "lmbd".*"lmdb"'),
        (lambda: Form(codec="snapy"), 'no codec "snapy".*"snappy"'),
        (lambda: Form(compression="blocks"), 'no compression "blocks".*"block"'),
        (lambda: Pictures(height=3), "both height and width"),
        (lambda: Pictures(encode="jpge"), 'no encoding "jpge"'),
        (lambda: Pictures(encode="png", decode=True), "exclude"),
        (lambda: convert(rows, str(tmp_path / "x"), "hdf5", pictures=Pictures(encode="png")), "pixels, not encoded"),
        (lambda: convert(rows, str(tmp_path / "x"), "parquet", parts=0), "at least one"),
    ]:
        with pytest.raises(ConfigError, match=message):
            call()
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(ConfigError, match="--from"):
        open_input(str(tmp_path / "junk"))
    with pytest.raises(StorageError, match="no such data set"):
        open_input(str(tmp_path / "lost"))
    write_parquet(tmp_path / "p.parquet", np.zeros((2, 1, 40, 40), np.uint8), [1, 300])
    with pytest.raises(DataError, match=r"rows 0 to 2: labels of this format"):
        convert(open_input(str(tmp_path / "p.parquet")), str(tmp_path / "idx"), "idx", parts=1)
    with pytest.raises(DataError, match=r"CIFAR-10's images are \(3, 32, 32\)"):
        convert(open_input(str(tmp_path / "p.parquet")), str(tmp_path / "c.bin"), "cifar10", parts=1)


def test_a_leveldb_does_not_take_the_place_of_anything(lmdb: Path, tmp_path: Path) -> None:
    """Whatever is there stays, unless it is to be overwritten."""
    pytest.importorskip("plyvel")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="there"):
        convert(open_input(str(lmdb)), str(tmp_path / "there"), "leveldb")
    assert (tmp_path / "there" / "thesis.txt").read_text() == "years of work"


def test_a_conversion_of_changed_rows_begins_anew(
    images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows repaired in place, with the same blocks as before: parts done with the old ones are not taken."""
    write_parquet(tmp_path / "rows.parquet", images, np.zeros(37, int))
    with monkeypatch.context() as broken:
        broken.setattr(jobs, "_finish", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(open_input(str(tmp_path / "rows.parquet")), str(tmp_path / "out"), "json", parts=4)
    write_parquet(tmp_path / "rows.parquet", images, np.ones(37, int))
    with pytest.raises(StorageError, match="an unfinished conversion of other data"):
        convert(open_input(str(tmp_path / "rows.parquet")), str(tmp_path / "out"), "json", parts=4)


def test_labels_that_a_format_cannot_hold(lmdb: Path, images: np.ndarray, tmp_path: Path) -> None:
    """Missing ones are bad rows, to be named or left out; too large ones are refused with the row's name."""
    pixels = [image.transpose(1, 2, 0).tobytes() for image in images[:3]]
    sizes = {name: [size] * 3 for name, size in (("channels", 3), ("height", 32), ("width", 32))}
    table = pa.table({"id": ["a", "b", "c"], "label": ["1", None, "3"], "data": pixels, **sizes})
    pq.write_table(table, tmp_path / "rows.parquet")
    for kind in ("lmdb", "sequence", "hdf5", "cifar10"):
        with pytest.raises(DataError, match=r'row 1 \(id "b"\): the column label is empty'):
            convert(open_input(str(tmp_path / "rows.parquet")), str(tmp_path / f"{kind}.bin"), kind)
        done = convert(open_input(str(tmp_path / "rows.parquet")), str(tmp_path / f"{kind}2.bin"), kind, skip=True)
        assert (done.rows, done.left) == (2, 1)
    pq.write_table(table.set_column(1, "label", [["1", str(2**31), "3"]]), tmp_path / "large.parquet")
    with pytest.raises(DataError, match=r'row "b": the label .2147483648. is not a whole number of 32 bits'):
        convert(open_input(str(tmp_path / "large.parquet")), str(tmp_path / "large"), "lmdb")


def test_damaged_gzip_and_ids_that_are_numbers(lmdb: Path, tmp_path: Path) -> None:
    """An error of zlib's own names the file, too; HDF5 ids need not be texts."""
    convert(open_input(str(lmdb)), str(tmp_path / "train"), "idx", pictures=Pictures(height=8, width=8))
    packed = bytearray(gzip.compress((tmp_path / "train-images-idx3-ubyte").read_bytes()))
    packed[40:60] = b"\xff" * 20
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"images-idx3-ubyte\.gz: cannot be read"):
        rows_of(tmp_path / "train-images-idx3-ubyte.gz", "idx", labels=str(tmp_path / "train-labels-idx1-ubyte"))
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["data"], file["label"], file["id"] = np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2), np.array([7, 8])
    assert [row["id"] for row in rows_of(tmp_path / "rows.h5", "hdf5")] == ["7", "8"]
