"""The verbs convert, mean and peek, and the older tools by their names and flags."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from cosdask.cli import clusters
from cosdask.cli.main import main
from cosdask.cli.old_tools import TOOLS
from cosdask.config import Config
from cosdask.convert import open_input
from cosdask.data import write_lmdb
from cosdask.data.transform import read_mean


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two cats, two dogs and their list as the working directory; work is done in this process."""

    @contextlib.contextmanager
    def connect(cluster: str, config: Config) -> Iterator[None]:
        yield None

    monkeypatch.setattr(clusters, "connect", connect)
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    for k, name in enumerate(["cat1.jpg", "cat2.jpg", "dog1.png", "dog2.png"]):
        image = np.random.default_rng(k).integers(0, 256, (20, 16 + k, 3), dtype=np.uint8)
        Path("images", name).write_bytes(cv2.imencode(name[-4:], image)[1].tobytes())
    Path("labels.txt").write_text("cat1.jpg 0\ncat2.jpg 0\ndog1.png 1\ndog2.png 1\n")
    Path("ids.txt").write_text("cat1.jpg 0 a\ndog1.png 1 b\n")
    write_lmdb("lmdb", np.arange(5 * 2 * 3 * 4, dtype=np.uint8).reshape(5, 2, 3, 4), range(5))
    return tmp_path


def run(words: str) -> int:
    return main(words.split())


def rows_of(path: str, kind: str = "") -> list[dict[str, object]]:
    rows = open_input(path, kind)
    return [row for batch in rows.read(0, rows.rows) for row in batch.to_pylist()]


def test_binary2sequence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CaffeOnSpark's ToolTest: as many records as lines; its source reads them."""
    words = "convert com.yahoo.ml.caffe.tools.Binary2Sequence -imageRoot images -labelFile labels.txt -output seq"
    assert run(words) == 0
    assert "seq: 4 rows" in capsys.readouterr().out
    found = rows_of("seq", "sequence")
    assert [(row["id"], row["label"], row["encoded"]) for row in found][1:3] == [
        ("cat2.jpg", "0", True),
        ("dog1.png", "1", True),
    ]
    assert found[0]["data"] == Path("images/cat1.jpg").read_bytes()
    assert run(words) == 1
    assert "already there" in capsys.readouterr().err
    assert main([*words.split(), "--overwrite"]) == 0


def test_binary2dataframe_has_both_sets_of_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns as upstream (SampleID, a label of whole numbers) and those that ImageDataFrame reads; json by default."""
    import pyarrow.parquet as pq

    words = "convert Binary2DataFrame -imageRoot images -labelFile ids.txt -output table"
    assert main([*words.split(), "-outputFormat", "parquet"]) == 0
    table = pq.read_table("table/part-00000.parquet")
    assert {name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)} == {
        "SampleID": "string", "id": "string", "label": "int32", "data": "binary", "encoded": "bool",
    }  # fmt: skip
    assert main([*words.split(), "--overwrite"]) == 0
    assert [path.name for path in Path("table").glob("part*")] == ["part-00000.json"]
    found = rows_of("table")
    assert [(row["id"], row["label"], row["encoded"]) for row in found] == [("a", "0", True), ("b", "1", True)]
    assert found[1]["data"] == Path("images/dog1.png").read_bytes()


def test_bad_lines_are_reported_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Upstream breaks on them; here an error names them, and skipping lists them."""
    Path("labels.txt").write_text("cat1.jpg 0\ncat2.jpg\nlost.jpg 1\n")
    words = ["convert", "Binary2Sequence", "-imageRoot", "images", "-labelFile", "labels.txt", "-output", "seq"]
    assert main(words) == 1
    assert "labels.txt:2" in capsys.readouterr().err
    assert main([*words, "--on-bad-rows", "skip"]) == 0
    said = capsys.readouterr()
    assert said.err.count("left out: ") == 2
    assert "seq: 1 rows, 2 left out" in said.out


def test_lmdb2dataframe_and_lmdb2sequence(folder: Path) -> None:
    """Columns and raw pixels as CaffeOnSpark's: labels text, height x width x channels."""
    assert run("convert LMDB2DataFrame -imageRoot lmdb -output t -outputFormat parquet -lmdb_partitions 2") == 0
    assert run("convert LMDB2Sequence -imageRoot lmdb -output s -lmdb_partitions 3") == 0
    assert len(list(Path("t").glob("part*"))) == 2 and len(list(Path("s").glob("part*"))) == 3
    for found in (rows_of("t"), rows_of("s")):
        assert [(row["id"], row["label"]) for row in found] == [(f"{k:08d}", str(k)) for k in range(5)]
        assert (found[0]["channels"], found[0]["height"], found[0]["width"], found[0]["encoded"]) == (2, 3, 4, False)
        assert found[0]["data"] == np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(1, 2, 0).tobytes()


def test_convert_imageset(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Caffe's tool: pixels in color at one size, keys with the file's name; gflags' switches."""
    assert run("convert convert_imageset --resize_height=8 -resize_width 6 images/ labels.txt db") == 0
    image = cv2.resize(cv2.imread("images/dog1.png", cv2.IMREAD_COLOR), (6, 8))
    found = rows_of("db")
    assert (found[2]["id"], found[2]["label"], found[2]["encoded"]) == ("00000002_dog1.png", "1", False)
    assert found[2]["data"] == image.tobytes()
    assert run("convert convert_imageset --gray --noshuffle --shuffle=false images/ labels.txt gray") == 0
    assert {row["channels"] for row in rows_of("gray")} == {1}
    assert run("convert convert_imageset -shuffle --encoded images/ labels.txt enc --seed 3") == 0
    found = rows_of("enc")
    assert sorted(str(row["id"])[9:] for row in found) == ["cat1.jpg", "cat2.jpg", "dog1.png", "dog2.png"]
    assert [str(row["id"])[9:] for row in found] != ["cat1.jpg", "cat2.jpg", "dog1.png", "dog2.png"]
    assert all(row["data"] == Path("images", str(row["id"])[9:]).read_bytes() for row in found)
    assert run("convert convert_imageset --encode_type=png --encoded images/ labels.txt png") == 0
    assert all(bytes(row["data"]).startswith(b"\x89PNG") for row in rows_of("png"))  # type: ignore[call-overload]
    assert run("convert convert_imageset --check_size images/ labels.txt sizes") == 1
    assert 'row 1 (id "cat2.jpg"): 3 x 20 x 17' in capsys.readouterr().err
    assert run("convert convert_imageset --gray=perhaps images/ labels.txt x") == 2


def test_mean_and_compute_image_mean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both write the same file and print the channels' means."""
    assert run("mean lmdb mean.binaryproto") == 0
    assert run("convert compute_image_mean --backend=lmdb lmdb caffe.binaryproto") == 0
    mean = read_mean("mean.binaryproto")
    np.testing.assert_array_equal(mean, np.arange(24, dtype=np.float32).reshape(2, 3, 4) + 48)
    assert Path("mean.binaryproto").read_bytes() == Path("caffe.binaryproto").read_bytes()
    assert "mean_value channel [1]: 65.5" in capsys.readouterr().out
    assert run("mean lmdb mean.binaryproto") == 1


def test_peek(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first rows as text, their pictures as PNG."""
    assert run("peek labels.txt --image-root images --rows 2 --png sheet.png") == 0
    out = capsys.readouterr().out
    assert "labels.txt: 2 of 4 rows" in out and "cat1.jpg" in out and "bytes jpg" in out
    assert cv2.imread("sheet.png").shape == (20, 17 * 2 + 4, 3)
    assert run("peek lmdb --rows none") == 2


def test_convert_by_endings_and_flags(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The format of the output by its name; compression, size and encoding by flags."""
    assert run("convert labels.txt out.parquet --image-root images --encode png --gray") == 0
    assert {(row["channels"], bytes(row["data"])[:4]) for row in rows_of("out.parquet")} == {(1, b"\x89PNG")}  # type: ignore[call-overload]
    assert run("convert out.parquet s --to sequence --compression block --codec zstd --parts 2") == 0
    assert b"ZStandardCodec" in Path("s/part-00001").read_bytes()
    assert run("convert s raw.h5 --resize-height 4 --resize-width 4") == 0
    assert len(rows_of("raw.h5")) == 4
    assert run("convert lmdb out") == 2
    assert "--to" in capsys.readouterr().err
    assert run("convert lmdb out.parquet --codek gzip") == 2
    assert "codec" in capsys.readouterr().err


@pytest.mark.parametrize("name", TOOLS)
def test_tools_explain_themselves_and_name_what_is_missing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", name, "--help"]) == 0
    assert f"cosdask convert {name} " in capsys.readouterr().out
    assert main(["convert", name]) == 2
    assert capsys.readouterr().err.startswith("cosdask: error: ")


def test_extract_features(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Caffe's tool: a Datum of floats a row, ten digits as keys, data that wrap round."""
    import cosdask

    Path("net.prototxt").write_text(
        'layer { name: "data" type: "Data" top: "data" data_param { source: "lmdb" backend: LMDB batch_size: 3 } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 '
        'weight_filler { type: "xavier" } } }'
    )
    net = cosdask.Net("net.prototxt", phase="TEST", seed=1)
    net.save("m.caffemodel")
    words = "convert extract_features m.caffemodel net.prototxt ip,data f1,f2 2 lmdb CPU DEVICE_ID=0"
    assert run(words) == 0
    assert "f1: 6 rows of ip" in capsys.readouterr().out
    found = rows_of("f1")
    assert [row["id"] for row in found] == [f"{k:010d}" for k in range(6)]
    pixels = np.arange(5 * 24, dtype=np.float32).reshape(5, 2, 3, 4)
    wanted = net.forward({"data": pixels[[0, 1, 2, 3, 4, 0]]}, blobs=["ip"])["ip"]
    np.testing.assert_array_equal([row["float_data"] for row in found], wanted)
    assert (found[0]["channels"], found[0]["height"], found[0]["width"]) == (2, 1, 1)
    assert run(words) == 1
    assert "already there" in capsys.readouterr().err
    assert run("convert extract_features m.caffemodel net.prototxt ipp g 2 lmdb") == 1
    assert 'no blob "ipp". Did you mean "ip"' in capsys.readouterr().err
