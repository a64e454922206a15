"""CaffeOnSpark's rules for data sources that no other test states; ``docs/data-sources.md`` lists them all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import text_format

from cosdask.data import open_source, write_lmdb
from cosdask.errors import ConfigError, DataError
from cosdask.proto import caffe_pb2

ALPHA = np.random.default_rng(5).integers(0, 256, (6, 5, 4), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    """An encoded picture without loss."""
    return bytes(cv2.imencode(".png", image)[1].tobytes())


def planes(image: np.ndarray) -> np.ndarray:
    """What a net sees of an interleaved image."""
    return image.reshape(*image.shape[:2], -1).transpose(2, 0, 1).astype(np.float32)


@pytest.mark.parametrize("java", ["", "com.yahoo.ml.caffe."])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("LMDB", "MemoryData"),
        ("SeqImageDataSource", "MemoryData"),
        ("ImageDataFrame", "MemoryData"),
        ("DataFrameSource", "CoSData"),
    ],
)
def test_java_names_open_sources(java: str, name: str, kind: str) -> None:
    """Full and short names mean the same class, each of which goes with one type of layer."""
    layer = caffe_pb2.LayerParameter(name="data", type=kind, source_class=java + name, top=["data", "label"])
    layer.memory_data_param.batch_size = layer.cos_data_param.batch_size = 1
    assert open_source(layer).kind == name
    layer.type = "CoSData" if kind == "MemoryData" else "MemoryData"
    with pytest.raises(ConfigError, match=f"{name} goes with layers of type {kind}"):
        open_source(layer)


def test_rows_with_sizes_are_decoded_as_they_are(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """Sheet 2.6: gray stays one channel, alpha is kept; without sizes the layer's channels say how to decode."""
    rows = {"label": ["1"], "encoded": [True], "height": [6], "width": [5]}
    for channels, image in ((1, ALPHA[:, :, 0]), (3, ALPHA[:, :, :3]), (4, ALPHA)):
        for sized in (True, False):
            columns = {name: value for name, value in rows.items() if sized or name not in ("height", "width")}
            pq.write_table(pa.table({**columns, "data": [png(image)]}), tmp_path / "rows.parquet")
            more = f"channels: {channels} height: 6 width: 5"
            batch = next(open_source(make_layer("parquet", tmp_path / "rows.parquet", 1, more=more)).batches())
            np.testing.assert_array_equal(batch["data"][0], planes(image))
    pq.write_table(pa.table({**rows, "data": [png(ALPHA)]}), tmp_path / "rows.parquet")
    layer = make_layer("parquet", tmp_path / "rows.parquet", 1, more="channels: 3 height: 6 width: 5")
    with pytest.raises(DataError, match="4 channels where 3 are expected"):
        next(open_source(layer).batches())


def test_resize_of_memory_layers_leaves_nothing_to_crop(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """Sheet 2.6: images come to the size of the layer, there that of the crop; a larger one can be cropped."""
    image = np.arange(20 * 30, dtype=np.uint16).astype(np.uint8).reshape(20, 30)
    write_lmdb(tmp_path / "rows", [png(image)] * 8, range(8))
    resized = cv2.resize(image, (6, 6))
    layer = make_layer("memory_lmdb", tmp_path / "rows", 8, "crop_size: 6", "channels: 1 height: 6 width: 6")
    for phase in ("TRAIN", "TEST"):
        batch = next(open_source(layer, phase, options={"resize": True}).batches())
        np.testing.assert_array_equal(batch["data"], np.repeat(planes(resized)[None], 8, axis=0))
    layer.memory_data_param.height = layer.memory_data_param.width = 12
    found = next(open_source(layer, "TRAIN", options={"resize": True}).batches())["data"]
    assert len({crop.tobytes() for crop in found}) > 1
    centre = next(open_source(layer, "TEST", options={"resize": True}).batches())["data"]
    np.testing.assert_array_equal(centre[0], planes(cv2.resize(image, (12, 12))[3:9, 3:9]))


def cos_layer(place: Path, block: str, more: str = "", transform: str = "") -> Any:
    return text_format.Parse(
        f'name: "data" type: "CoSData" top: "x" source_class: "DataFrameSource" {transform} cos_data_param {{ '
        f'source: "{place}" batch_size: 4 {more} top {{ name: "x" {block} }} }}',
        caffe_pb2.LayerParameter(),
    )


def test_a_transform_of_the_whole_cosdata_layer_is_not_looked_at(tmp_path: Path) -> None:
    """Sheet 2.2: transforms are the tops' own."""
    pq.write_table(pa.table({"x": [ALPHA[:, :, :3].tobytes()] * 4}), tmp_path / "rows.parquet")
    block = "type: RAW_IMAGE channels: 3 height: 6 width: 5 transform_param { mean_value: 1 }"
    layer = cos_layer(tmp_path / "rows.parquet", block, transform="transform_param { scale: 7 crop_size: 2 }")
    np.testing.assert_array_equal(next(open_source(layer).batches())["x"][0], planes(ALPHA[:, :, :3]) - 1)


def test_encoded_tops_of_other_channels_are_decoded_as_they_are(tmp_path: Path) -> None:
    """Sheet 2.7: one channel is gray, three are color, others as stored."""
    pq.write_table(pa.table({"x": [png(ALPHA)] * 4}), tmp_path / "rows.parquet")
    block = "type: ENCODED_IMAGE channels: 4 height: 6 width: 5 transform_param { }"
    batch = next(open_source(cos_layer(tmp_path / "rows.parquet", block)).batches())
    np.testing.assert_array_equal(batch["x"][3], planes(ALPHA))


def test_rows_keep_their_order_unless_the_layer_says_shuffle(tmp_path: Path) -> None:
    """Sheet 2.2: storage order in every epoch; ``shuffle`` of cos_data_param, which nothing read there, shuffles."""
    pq.write_table(pa.table({"x": list(range(32))}), tmp_path / "rows.parquet", row_group_size=5)
    block = "type: INT channels: 1 height: 1 width: 1"

    def epochs(more: str) -> list[list[float]]:
        source = open_source(cos_layer(tmp_path / "rows.parquet", block, more))
        rows = np.concatenate([batch["x"].ravel() for batch in source.batches(epochs=2)]).tolist()
        return [rows[:32], rows[32:]]

    assert epochs("") == [list(range(32))] * 2
    first, second = epochs("shuffle: true")
    assert sorted(first) == sorted(second) == list(range(32)) and first != second
