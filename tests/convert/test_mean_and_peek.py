"""The mean image is Caffe's, and a look at any source shows its first rows."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cosdask.convert import mean_image, open_input, peek, write_mean
from cosdask.data import write_lmdb, write_parquet
from cosdask.data.hadoop import SequenceWriter, write_text
from cosdask.data.hadoop.writables import TEXT
from cosdask.data.transform import read_mean
from cosdask.errors import DataError
from cosdask.proto import caffe_pb2


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (41, 3, 7, 5), dtype=np.uint8)


def test_the_mean_is_caffes(images: np.ndarray, tmp_path: Path) -> None:
    """float32 sums, added row after row and divided by their number, as compute_image_mean does it; its file too."""
    write_lmdb(tmp_path / "lmdb", images, range(41))
    total = np.zeros(images.shape[1:], np.float32)
    for image in images:
        total += image
    mean = mean_image(open_input(str(tmp_path / "lmdb")))
    np.testing.assert_array_equal(mean, total / np.float32(41))
    write_mean(str(tmp_path / "mean.binaryproto"), mean)
    np.testing.assert_array_equal(read_mean(str(tmp_path / "mean.binaryproto")), mean)
    blob = caffe_pb2.BlobProto.FromString((tmp_path / "mean.binaryproto").read_bytes())
    assert (blob.num, blob.channels, blob.height, blob.width, len(blob.shape.dim)) == (1, 3, 7, 5, 0)


def test_the_mean_of_encoded_images_and_of_floats(images: np.ndarray, tmp_path: Path) -> None:
    """Encoded datums are decoded, floats added as such; the storage makes no difference."""
    files = [cv2.imencode(".png", image.transpose(1, 2, 0))[1].tobytes() for image in images]
    write_parquet(tmp_path / "png.parquet", files, range(41))
    write_lmdb(tmp_path / "floats", images.astype(np.float32), range(41))
    wanted = images.sum(axis=0, dtype=np.int64) / np.float64(41)
    for name in ("png.parquet", "floats"):
        np.testing.assert_allclose(mean_image(open_input(str(tmp_path / name))), wanted, rtol=1e-6)


def test_a_mean_of_different_sizes_is_refused(tmp_path: Path) -> None:
    """Naming the row, and what to do; a row that is no image too."""
    files = [cv2.imencode(".png", np.zeros((4 + k // 3, 4, 3), np.uint8))[1].tobytes() for k in range(4)]
    write_lmdb(tmp_path / "sizes", files, range(4))
    with pytest.raises(DataError, match=r"row 3: an image of \(3, 5, 4\), others are \(3, 4, 4\).*--resize-height"):
        mean_image(open_input(str(tmp_path / "sizes")))
    write_lmdb(tmp_path / "junk", [*files[:2], b"junk"], range(3))
    with pytest.raises(DataError, match=r'row 2 \(id "00000002"\): no image'):
        mean_image(open_input(str(tmp_path / "junk")))


def test_peek_shows_rows_and_pictures(images: np.ndarray, tmp_path: Path) -> None:
    """Ids, labels and sizes as text; the pictures on one PNG, and in a notebook."""
    write_lmdb(tmp_path / "lmdb", images, range(41))
    found = peek(str(tmp_path / "lmdb"), 3)
    lines = str(found).splitlines()
    assert lines[0] == f"{tmp_path}/lmdb: 3 of 41 rows"
    assert lines[1].split() == ["id", "label", "channels", "height", "width", "encoded", "data"]
    assert lines[3].split() == ["00000001", "1", "3", "7", "5", "False", "105", "bytes"]
    sheet = cv2.imdecode(np.frombuffer(found.sheet(), np.uint8), cv2.IMREAD_COLOR)
    assert sheet.shape == (7, 5 * 3 + 4 * 2, 3)
    np.testing.assert_array_equal(sheet[:, 9:14], images[1].transpose(1, 2, 0))
    assert found._repr_html_().count("<img ") == 3


def test_peek_takes_prototxts_tables_and_any_sequence_file(images: np.ndarray, tmp_path: Path) -> None:
    """A net's data layer by phase, rows that are no images, keys and values of Hadoop's classes."""
    write_parquet(tmp_path / "p.parquet", images, range(41))
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "MemoryData" top: "data" top: "label" source_class: "ImageDataFrame" '
        f'include {{ phase: TEST }} memory_data_param {{ source: "{tmp_path}/p.parquet" batch_size: 2 '
        "channels: 3 height: 7 width: 5 } }"
    )
    assert "2 of 41 rows" in str(peek(str(tmp_path / "net.prototxt"), 2, phase="TEST"))
    with (tmp_path / "texts.seq").open("wb") as file, SequenceWriter(file, TEXT, TEXT) as writer:
        writer.append(write_text("cat"), write_text("x" * 100))
    assert str(peek(str(tmp_path / "texts.seq"))).splitlines()[1:] == [
        "Text  Text",
        "cat   " + "x" * 57 + "...",
    ]
    write_parquet(tmp_path / "junk.parquet", [b"junk"], [1])
    with pytest.raises(DataError, match="none of these rows is a picture"):
        peek(str(tmp_path / "junk.parquet")).sheet()
