"""Lists of images (ImageData) and of windows (WindowData), by Caffe's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from cosdask.data import Feed, RowPlan, Source, open_source
from cosdask.data.windows import fit_window
from cosdask.errors import ConfigError, CosdaskError, DataError
from cosdask.proto import caffe_pb2
from cosdask.storage import filesystem


def layer(kind: str, block: str, transform: str = "") -> Any:
    """An ImageData or WindowData layer."""
    name = {"ImageData": "image_data_param", "WindowData": "window_data_param"}[kind]
    return text_format.Parse(
        f'name: "data" type: "{kind}" top: "data" top: "label" {name} {{ {block} }} transform_param {{ {transform} }}',
        caffe_pb2.LayerParameter(),
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of 20 x 24, one in a folder whose name has a blank, and their list."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "a b").mkdir()
    random = np.random.default_rng(1)
    names = ["0.png", "1.png", "2.png", "a b/3.png", "4.png", "5.png"]
    for name in names:
        cv2.imwrite(str(folder / name), random.integers(0, 256, (20, 24, 3), dtype=np.uint8))
    (folder / "list.txt").write_text("".join(f"{name} {-number}\n\n" for number, name in enumerate(names)))
    return folder


def test_an_image_list_in_order(pictures: Path) -> None:
    """Names with blanks, negative labels, gray images, sizes; the SampleID is the name in the list."""
    block = f'source: "{pictures}/list.txt" root_folder: "{pictures}/" batch_size: 4 is_color: false'
    source = Source.from_spec(open_source(layer("ImageData", f"{block} new_height: 9 new_width: 7")).spec())
    assert source.tops == {"data": (4, 1, 9, 7), "label": (4,)}
    batches = list(source.batches(epochs=1))
    assert np.concatenate([batch["label"] for batch in batches]).tolist() == [0, -1, -2, -3, -4, -5]
    gray = cv2.imread(str(pictures / "a b/3.png"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(batches[0]["data"][3, 0], cv2.resize(gray, (7, 9)).astype(np.float32))
    assert [name for rows in source.read(2, 5) for name in source.ids(rows)] == ["2.png", "a b/3.png", "4.png"]
    frame = source.frame(source.partitions()[0])
    assert frame["data"][5] == (pictures / "5.png").read_bytes()


def test_a_shuffled_list_gives_each_image_once_an_epoch(pictures: Path) -> None:
    """``shuffle`` of the layer, in any order that the seed says; another one each epoch; ranks share it."""
    block = f'source: "{pictures}/list.txt" root_folder: "{pictures}/" batch_size: 6 shuffle: true'
    source = open_source(layer("ImageData", block), "TEST", options={"seed": 3})
    orders = [(-batch["label"]).astype(int).tolist() for batch in source.batches(epochs=4)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    again = open_source(layer("ImageData", block), "TEST", options={"seed": 3})
    assert [(-batch["label"]).astype(int).tolist() for batch in again.batches(epochs=4)] == orders


def test_images_on_another_filesystem(pictures: Path) -> None:
    """Lists and images may be URLs; several are fetched at a time, in order."""
    fs, _ = filesystem("memory://images/")
    for path in pictures.rglob("*.*"):
        fs.pipe(f"/images/{path.relative_to(pictures)}", path.read_bytes())
    block = 'source: "memory://images/list.txt" root_folder: "memory://images/" batch_size: 6'
    batch = next(open_source(layer("ImageData", block)).batches())
    assert (-batch["label"]).tolist() == list(range(6))
    wanted = cv2.imread(str(pictures / "5.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(batch["data"][5], wanted.astype(np.float32))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0.png\n", r"list\.txt:1: a name, a blank and a whole number"),
        ("0.png 1\n1.png one\n", r"list\.txt:2: .*'1\.png one'"),
        ("\n", "names no images"),
        ("0.png 1\nlost.png 2\n", r'row 1 \(id "lost\.png"\): .*no such file'),
        ("0.png 1\nlist.txt 2\n", r'row 1 \(id "list\.txt"\): no image'),
        ("0.png 1\nsmall.png 2\n", r'row 1 \(id "small\.png"\): an image of 4 x 4 where 20 x 24'),
    ],
)
def test_bad_lists_and_images_are_named(lines: str, message: str, pictures: Path, tmp_path: Path) -> None:
    """The line of the list, or the row and its name."""
    (tmp_path / "0.png").write_bytes((pictures / "0.png").read_bytes())
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "list.txt").write_text(lines)
    source = open_source(layer("ImageData", 'source: "list.txt" batch_size: 2'), base_dir=tmp_path)
    with pytest.raises(DataError, match=message):
        next(source.batches())


def test_one_new_size_is_refused() -> None:
    """Caffe wants both or neither."""
    with pytest.raises(ConfigError, match="new_height and new_width"):
        open_source(layer("ImageData", 'source: "x" new_height: 5'))


@pytest.fixture(scope="module")
def windows(pictures: Path) -> Path:
    """A window file over two of the pictures: three objects, three that are none, one between."""
    text = []
    for number, name in enumerate(("0.png", "a b/3.png")):
        lines = [f"{2 + number} 0.9 1 2 12 11", f"{2 + number} 0.6 0 0 23 19", "1 0.1 4 4 9 9", "4 0.0 0 0 3 3"]
        lines += ["7 0.45 1 1 2 2"] * number
        text += [f"# {number}", name, "3", "20", "24", str(len(lines)), *lines]
    (pictures / "windows.txt").write_text("\n".join(text) + "\n")
    return pictures


def test_batches_of_windows(windows: Path) -> None:
    """A quarter of each batch has an object and its class, behind windows without one, labeled 0."""
    block = f'source: "{windows}/windows.txt" root_folder: "{windows}/" batch_size: 8 bg_threshold: 0.4 scale: 0.5'
    # Caffe's layer looks at its own scale only
    text = layer("WindowData", f"{block} cache_images: true", "crop_size: 6 mean_value: 10 mirror: true scale: 9")
    source = Source.from_spec(open_source(text, options={"seed": 2}).spec())
    assert source.tops == {"data": (8, 3, 6, 6), "label": (8,)}
    batches = list(source.batches(epochs=30))
    labels = np.stack([batch["label"] for batch in batches if len(batch["label"]) == 8])
    assert len(labels) >= 30
    assert (labels[:, :6] == 0).all()
    assert set(labels[:, 6:].ravel()) == {2, 3}
    assert len({batch["data"].tobytes() for batch in batches}) > 20
    image = cv2.imread(str(windows / "0.png"))
    possible = set()
    for x1, y1, x2, y2 in ((1, 2, 12, 11), (0, 0, 23, 19)):
        warped = cv2.resize(image[y1 : y2 + 1, x1 : x2 + 1], (6, 6))
        for one in (warped, warped[:, ::-1]):
            possible.add(((one.transpose(2, 0, 1).astype(np.float32) - 10) * np.float32(0.5)).tobytes())
    found = {b["data"][i].tobytes() for b in batches for i in (6, 7) if b["label"][i] == 2}
    assert found == possible


def test_padding_is_zero_after_the_mean(windows: Path) -> None:
    """What lies outside of the image is zero, also when JAX finishes the batch."""
    import jax
    import jax.numpy as jnp

    block = (
        f'source: "{windows}/windows.txt" root_folder: "{windows}/" batch_size: 4 context_pad: 2 crop_mode: "square"'
    )
    source = open_source(layer("WindowData", f"{block} fg_fraction: 1", "crop_size: 8 mean_value: 200"))
    finish = jax.jit(lambda raw: source.finish(raw, xp=jnp))
    with Feed(source, RowPlan(source.rows, 1), 0, 4) as feed:
        for _ in range(4):
            raw = {name: array.copy() for name, array in next(feed).items()}
            plain, compiled = source.finish(raw), finish(raw)
            np.testing.assert_allclose(np.asarray(compiled["data"]), plain["data"], atol=1e-5)
            for image, (top, left, height, width) in zip(plain["data"], raw["data:box"].tolist(), strict=True):
                inside = np.zeros((8, 8), bool)
                inside[top : top + height, left : left + width] = True
                assert (image[:, ~inside] == 0).all()
                assert (np.abs(image[:, inside]) > 0).mean() > 0.9
                assert not inside.all() or height == width == 8


@given(st.data())
def test_a_fitted_window_stays_within_image_and_result(data: st.DataObject) -> None:
    """Invariant 1: what is warped lies within the image and lands within the square; mirrored, so is its padding."""
    height, width = data.draw(st.integers(5, 60)), data.draw(st.integers(5, 60))
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1, width - 1)), data.draw(st.integers(y1, height - 1))
    pad, square = data.draw(st.integers(0, 8)), data.draw(st.booleans())
    plain = fit_window([x1, y1, x2, y2], (height, width), 24, pad, square, False)
    sx1, sy1, sx2, sy2 = plain.source
    assert 0 <= sx1 <= sx2 < width and 0 <= sy1 <= sy2 < height
    top, left, high, wide = plain.box
    assert top >= 0 and left >= 0 and top + high <= 24 and left + wide <= 24
    flipped = fit_window([x1, y1, x2, y2], (height, width), 24, pad, square, True)
    assert flipped.source == plain.source
    assert abs(flipped.box[1] + left + wide - 24) <= 1
    if not pad and not square:
        assert plain.box == (0, 0, 24, 24) and plain.source == (x1, y1, x2, y2)


def test_a_mean_image_lies_under_the_middle_of_a_window(windows: Path, tmp_path: Path) -> None:
    """Of a mean that is larger than the crop the middle is subtracted; a smaller one is refused."""
    mean = np.arange(3 * 8 * 10, dtype=np.float32).reshape(3, 8, 10)
    for name, values in (("mean", mean), ("small", mean[:, :5])):
        blob = caffe_pb2.BlobProto(num=1, channels=3, height=values.shape[1], width=10, data=values.ravel().tolist())
        (tmp_path / f"{name}.binaryproto").write_bytes(blob.SerializeToString())
    block = f'source: "{windows}/windows.txt" root_folder: "{windows}/" batch_size: 4'
    plain = open_source(layer("WindowData", block, "crop_size: 6"), options={"seed": 1})
    with_mean = layer("WindowData", block, f'crop_size: 6 mean_file: "{tmp_path}/mean.binaryproto"')
    found = next(open_source(with_mean, options={"seed": 1}).batches())["data"]
    np.testing.assert_array_equal(found, next(plain.batches())["data"] - mean[:, 1:7, 2:8])
    with pytest.raises(DataError, match="smaller than crop_size 6"):
        open_source(layer("WindowData", block, f'crop_size: 6 mean_file: "{tmp_path}/small.binaryproto"'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.png\n3\n20\n24\n1\n1 0.9 0 0 5 5", r':1: "# index" is expected'),
        ("# 0\n0.png\n3\n20\n24\nmany", ":6: the number of windows"),
        ("# 0\n0.png\n3\n20\n24\n2\n1 0.9 0 0 5 5", ":7: class overlap x1 y1 x2 y2 .*the end of the file"),
        ("# 0\n0.png\n3\n20\n24\n1\n1 0.9 0 0 5", ":7: class overlap"),
        ("# 0\n0.png\n3", "a name, channels, height"),
        ("# 0\n0.png\n3\n20\n24\n1\n0 0.9 0 0 5 5", "an object's class is 1 or more"),
        ("# 0\n0.png\n3\n20\n24\n1\n1 0.9 0 0 5 5", "windows no object a batch, but the file has none"),
        ("# 0\n0.png\n3\n20\n24\n2\n1 0.9 0 0 5 50\n1 0 0 0 5 50", r"window \d: \[0, 0, 5, 50\] is not within"),
        ("# 0\nlost.png\n3\n20\n24\n2\n1 0.9 0 0 5 5\n1 0 0 0 5 5", r'\(image "lost\.png"\): .*no such file'),
    ],
)
def test_bad_window_files_are_named(text: str, message: str, pictures: Path, tmp_path: Path) -> None:
    """The line, or the window and its image."""
    (tmp_path / "0.png").write_bytes((pictures / "0.png").read_bytes())
    (tmp_path / "windows.txt").write_text(text + "\n")
    source = open_source(layer("WindowData", 'source: "windows.txt" batch_size: 4', "crop_size: 6"), base_dir=tmp_path)
    with pytest.raises(CosdaskError, match=message):
        next(source.batches())
