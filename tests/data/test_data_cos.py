"""CoSData layers: each of the eight types, transforms and shapes a top, time-major tops, what cannot work."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import text_format

import cosdask
from cosdask.data import Feed, RowPlan, Source, frame_source, open_source, register_source
from cosdask.errors import ConfigError, DataError
from cosdask.proto import caffe_pb2


def cos_layer(source: object, tops: dict[str, str], batch: int = 3, more: str = "", kind: str = "") -> Any:
    """A CoSData layer: blob name to the inside of its block (the column is named like the blob, with a c before)."""
    blocks = " ".join(f'top {{ name: "c_{name}" {text} }}' for name, text in tops.items())
    names = " ".join(f'top: "{name}"' for name in tops)
    return text_format.Parse(
        f'name: "data" type: "CoSData" {names} source_class: "{kind or "com.yahoo.ml.caffe.DataFrameSource"}" '
        f'cos_data_param {{ source: "{source}" batch_size: {batch} {more} {blocks} }}',
        caffe_pb2.LayerParameter(),
    )


ONE = "channels: 1 height: 1 width: 1"
IMAGE = "channels: 3 height: 6 width: 5"
TOPS = {
    "string": f"type: STRING {ONE}",
    "int": f"type: INT {ONE}",
    "float": "type: FLOAT sample_num_axes: 0",
    "ints": "type: INT_ARRAY channels: 4 sample_num_axes: 1 transpose: true",
    "floats": "type: FLOAT_ARRAY channels: 2 height: 3 sample_num_axes: 2",
    "encoded": f"type: ENCODED_IMAGE {IMAGE} transform_param {{ }}",
    "raw": f"type: RAW_IMAGE {IMAGE} out_channels: 3 out_height: 4 out_width: 4 "
    "transform_param { crop_size: 4 mean_value: 1 mean_value: 2 mean_value: 3 scale: 0.5 }",
    "sized": "type: ENCODED_IMAGE_WITH_DIM channels: 1 height: 6 width: 5 transform_param { mirror: true }",
}


def pictures(rows: int, channels: int = 3) -> np.ndarray:
    """uint8 (rows, 6, 5, channels)."""
    return np.random.default_rng(channels).integers(0, 256, (rows, 6, 5, channels), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    """An encoded picture without loss."""
    return bytes(cv2.imencode(".png", image)[1].tobytes())


def all_types(rows: int = 7) -> dict[str, Any]:
    """Columns for :data:`TOPS`."""
    color, gray = pictures(rows), pictures(rows, 1)
    return {
        "id": [f"row{i}" for i in range(rows)],
        "c_string": [f"{i}.5" for i in range(rows)],
        "c_int": pa.array(range(rows), pa.int64()),
        "c_float": pa.array([i / 3 for i in range(rows)], pa.float64()),
        "c_ints": pa.array([[i, i + 1, i + 2, -1] for i in range(rows)], pa.list_(pa.int32())),
        "c_floats": pa.array(np.arange(rows * 6).reshape(rows, 6).tolist(), pa.list_(pa.float64())),
        "c_encoded": [png(image) for image in color],
        "c_raw": [image.tobytes() for image in color],
        "c_sized": pa.array(
            [
                {"image": np.frombuffer(png(image), np.int8).tolist(), "height": 6, "width": 5, "url": "x"}
                for image in gray
            ],
            pa.struct(
                [("image", pa.list_(pa.int8())), ("height", pa.int32()), ("width", pa.int32()), ("url", pa.string())]
            ),
        ),
    }


def wanted(rows: int) -> dict[str, np.ndarray]:
    """The whole blobs, by the rules of the behaviour sheet."""
    color, gray = pictures(rows), pictures(rows, 1)
    planes = color.transpose(0, 3, 1, 2).astype(np.float32)
    cropped = (planes[:, :, 1:5, 0:4] - np.array([1, 2, 3], np.float32).reshape(1, 3, 1, 1)) * np.float32(0.5)
    return {
        "string": (np.arange(rows, dtype=np.float32) + np.float32(0.5)).reshape(-1, 1, 1, 1),
        "int": np.arange(rows, dtype=np.float32).reshape(-1, 1, 1, 1),
        "float": np.array([i / 3 for i in range(rows)], np.float32),
        "ints": np.array([[i, i + 1, i + 2, -1] for i in range(rows)], np.float32).T,
        "floats": np.arange(rows * 6, dtype=np.float32).reshape(rows, 2, 3),
        "encoded": planes,
        "raw": cropped,
        "sized": gray.transpose(0, 3, 1, 2).astype(np.float32),
    }


def joined(batches: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    """A blob's batches behind each other."""
    return np.concatenate([batch[name] for batch in batches], axis=1 if name == "ints" else 0)


def test_all_eight_types(tmp_path: Path) -> None:
    """Every type's shape and values; batches straddle row groups, the last one is short; time-major tops are (C, N)."""
    pq.write_table(pa.table(all_types()), tmp_path / "rows.parquet", row_group_size=4)
    source = open_source(cos_layer(tmp_path / "rows.parquet", TOPS), "TEST")
    assert source.tops == {
        "string": (3, 1, 1, 1),
        "int": (3, 1, 1, 1),
        "float": (3,),
        "ints": (4, 3),
        "floats": (3, 2, 3),
        "encoded": (3, 3, 6, 5),
        "raw": (3, 3, 4, 4),
        "sized": (3, 1, 6, 5),
    }
    batches = list(Source.from_spec(source.spec()).batches(epochs=1))
    assert [batch["ints"].shape for batch in batches] == [(4, 3), (4, 3), (4, 1)]
    for name, expected in wanted(7).items():
        found = joined(batches, name)
        assert found.dtype == np.float32
        if name == "sized":  # mirrored at random, in TEST too
            flipped = np.array([not np.array_equal(a, b) for a, b in zip(found, expected, strict=True)])
            expected = np.where(flipped[:, None, None, None], expected[..., ::-1], expected)
        np.testing.assert_array_equal(found, expected)
    assert [name for rows in source.read(2, 5) for name in source.ids(rows)] == ["row2", "row3", "row4"]


def test_batches_that_straddle_epochs_keep_time_major_tops(tmp_path: Path) -> None:
    """The feed's batches, finished inside a compiled function, wrap round with the batch on the second axis."""
    import jax
    import jax.numpy as jnp

    pq.write_table(pa.table({"c_ints": all_types(4)["c_ints"]}), tmp_path / "rows.parquet")
    source = open_source(cos_layer(tmp_path / "rows.parquet", {"ints": TOPS["ints"]}))
    finish = jax.jit(lambda raw: source.finish(raw, xp=jnp))
    with Feed(source, RowPlan(source.rows, 1), 0, 3) as feed:
        found = [np.asarray(finish(next(feed))["ints"])[0].tolist() for _ in range(3)]
    assert found == [[0, 1, 2], [3, 0, 1], [2, 3, 0]]


def test_json_and_frames_give_the_same(tmp_path: Path) -> None:
    """Rows as Spark writes them in JSON, a pandas frame with Arrow types, and a user's own class, equal parquet's."""
    table = pa.table(all_types())
    pq.write_table(table, tmp_path / "rows.parquet")
    tops = {name: text for name, text in TOPS.items() if name != "sized"}
    reference = list(open_source(cos_layer(tmp_path / "rows.parquet", tops), "TEST").batches(2))
    lines = []
    for row in table.drop_columns(["c_sized"]).to_pylist():
        row = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in row.items()}
        lines.append(json.dumps(row))
    (tmp_path / "rows.json").write_text("\n".join(lines))

    @register_source("org.example.Everything")
    class Everything:
        def __init__(self, layer: Any, phase: str) -> None:
            pass

        def frame(self) -> pd.DataFrame:
            return table.to_pandas(types_mapper=pd.ArrowDtype)

    sources = [
        open_source(cos_layer(tmp_path / "rows.json", tops, more='dataframe_format: "json"'), "TEST"),
        frame_source(cos_layer("", tops), "TEST", frame=table.to_pandas(types_mapper=pd.ArrowDtype)),
        Source.from_spec(open_source(cos_layer("", tops, kind="org.example.Everything"), "TEST").spec()),
    ]
    for source in sources:
        for left, right in zip(source.batches(2), reference, strict=True):
            for name in tops:
                np.testing.assert_array_equal(left[name], right[name])


def test_resize_goes_before_the_crop(tmp_path: Path) -> None:
    """With -resize images of any size come to the block's size, and crop and mirror stay effective."""
    image = np.full((20, 30, 3), 7, np.uint8)
    pq.write_table(pa.table({"c_encoded": [png(image)] * 3}), tmp_path / "rows.parquet")
    tops = {"encoded": f"type: ENCODED_IMAGE {IMAGE} transform_param {{ crop_size: 4 }}"}
    layer = cos_layer(tmp_path / "rows.parquet", tops)
    batch = next(open_source(layer, "TRAIN", options={"resize": True}).batches())
    np.testing.assert_array_equal(batch["encoded"], np.full((3, 3, 4, 4), 7, np.float32))
    tops = {"encoded": f"type: ENCODED_IMAGE {IMAGE} transform_param {{ }}"}
    with pytest.raises(DataError, match=r"row 0 .*an image of 20 x 30 where 6 x 5 .*resize.*column 'c_encoded'"):
        next(open_source(cos_layer(tmp_path / "rows.parquet", tops)).batches())


def test_a_net_trains_on_time_major_columns(tmp_path: Path) -> None:
    """A recurrent net learns from a dataframe with cont markers and words, two rows a batch."""
    cosdask_frame = pa.table(
        {
            "c_words": pa.array([[1, 2, 3], [2, 3, 1]] * 2, pa.list_(pa.int32())),
            "c_cont": pa.array([[0, 1, 1]] * 4, pa.list_(pa.int32())),
            "c_next": pa.array([[2, 3, -1], [3, 1, -1]] * 2, pa.list_(pa.int32())),
        }
    )
    pq.write_table(cosdask_frame, tmp_path / "rows.parquet")
    block = "type: INT_ARRAY channels: 3 sample_num_axes: 1 transpose: true"
    layer = cos_layer("rows.parquet", dict.fromkeys(("words", "cont", "next"), block), batch=2)
    (tmp_path / "net.prototxt").write_text(
        f"layer {{ {text_format.MessageToString(layer)} }}"
        """
        layer { name: "embed" type: "Embed" bottom: "words" top: "embed"
          embed_param { input_dim: 4 num_output: 5 bias_term: false weight_filler { type: "uniform" min: -1 max: 1 } } }
        layer { name: "rnn" type: "RNN" bottom: "embed" bottom: "cont" top: "rnn" recurrent_param { num_output: 6
          weight_filler { type: "uniform" min: -0.5 max: 0.5 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "rnn" top: "ip"
          inner_product_param { num_output: 4 axis: 2 weight_filler { type: "xavier" } } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "next" top: "loss"
          softmax_param { axis: 2 } loss_param { ignore_label: -1 } }
        """
    )
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.5 momentum: 0.9 lr_policy: "fixed" max_iter: 60 random_seed: 1'
    )
    with cosdask.Solver(tmp_path / "solver.prototxt") as solver:
        solver.step(1)
        first = solver.loss
        solver.step(40)
        assert solver.loss < 0.1 * first


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (f"type: RAW_IMAGE {IMAGE}", "needs a transform_param"),
        ("type: ENCODED_IMAGE transform_param { }", "needs channels, height and width"),
        (f"type: INT {ONE} transform_param {{ }}", "only images have a transform_param"),
        ("type: INT channels: 2", "one value a row cannot fill"),
        ("type: INT_ARRAY", "needs channels, height, width of at least 1"),
        ("type: INT_ARRAY channels: 3 transpose: true", "transpose needs sample_num_axes: 1"),
        ("type: FLOAT_ARRAY channels: 3 sample_num_axes: 4", "at most 3 axes"),
        (f"type: RAW_IMAGE {IMAGE} transform_param {{ }} sample_num_axes: 1", "those left out hold more than one"),
        (f"type: RAW_IMAGE {IMAGE} transform_param {{ crop_size: 4 }} out_height: 6", "become"),
        (f"type: RAW_IMAGE {IMAGE} transform_param {{ crop_size: 9 }}", "smaller than crop_size 9"),
    ],
)
def test_blocks_that_cannot_work_say_so(block: str, message: str) -> None:
    """The error names layer, top and column before any row is read."""
    with pytest.raises((ConfigError, DataError), match=rf'data layer "data", top "x" \(column .*{message}'):
        open_source(cos_layer("nowhere", {"x": block})).tops  # noqa: B018


def test_tops_and_blocks_must_go_together() -> None:
    """A block for each top."""
    layer = cos_layer("nowhere", {"x": f"type: INT {ONE}"})
    layer.top.append("y")
    with pytest.raises(ConfigError, match="2 tops and 1 top blocks"):
        open_source(layer).tops  # noqa: B018


INTS = "type: INT_ARRAY channels: 3 sample_num_axes: 1"


@pytest.mark.parametrize(
    ("block", "cells", "message"),
    [
        (
            INTS,
            [[1, 2, 3], [1, 2]],
            r"row 1 \(id \"\"\): an array of 2 numbers where 3 .*\(partition 0, column 'c_x'\)",
        ),
        (INTS, [[1, 2, 3], [1, 2, 3, 4]], "row 1 .*an array of 4 numbers where 3"),
        (INTS, [[1, 2, 3], None], "row 1 .*the cell is empty"),
        (INTS, [[1, 2, 3], [1, None, 3]], "row 1 .*a number in the array is missing"),
        (INTS, ["[0. 1. 2.]", "[0. 1. 2.]"], "holds string.*Dask turned the column into text"),
        (INTS, [1, 2], "the column 'c_x' holds int64"),
        (f"type: STRING {ONE}", ["1", "cat"], "row 1 .*'cat' is not a number"),
        (f"type: INT {ONE}", [1, None], "row 1 .*the cell is empty"),
        (f"type: INT {ONE}", [1.0, 2.5], "the column 'c_x' holds double"),
        (f"type: RAW_IMAGE {IMAGE} transform_param {{ }}", [bytes(90), bytes(89)], "row 1 .*89 bytes for 3 x 6 x 5"),
        (f"type: ENCODED_IMAGE {IMAGE} transform_param {{ }}", [b"\xff\xd8", b"x"], "row 0 .*no image: 2 bytes"),
        (
            "type: ENCODED_IMAGE_WITH_DIM channels: 1 height: 6 width: 5 transform_param { }",
            [{"image": png(pictures(1, 1)[0]), "height": 5, "width": 6}],
            "row 0 .*says 5 x 6, but its image is 6 x 5",
        ),
        (
            "type: ENCODED_IMAGE_WITH_DIM channels: 1 height: 6 width: 5 transform_param { }",
            [{"image": b"x", "height": 5}],
            "column 'c_x' .*it has no field 'width', only",
        ),
    ],
)
def test_bad_cells_are_named(block: str, cells: list[Any], message: str, tmp_path: Path) -> None:
    """Invariant 3: short arrays keep no old tail, nothing is skipped; source, row, id and column are told."""
    pq.write_table(pa.table({"c_x": cells}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=message):
        list(open_source(cos_layer(tmp_path / "rows.parquet", {"x": block}), "TEST").batches(epochs=1))


def test_bad_rows_may_be_skipped(tmp_path: Path) -> None:
    """What cannot be read is left out and listed with its row and column; labels and images stay side by side."""
    images = [png(image) for image in pictures(6)]
    images[2] = b"no image"
    numbers = ["0", "1", "2", "x", "4", "5"]
    lines = [json.dumps({"c_a": base64.b64encode(a).decode(), "c_b": b}) for a, b in zip(images, numbers, strict=True)]
    (tmp_path / "rows.json").write_text("\n".join(lines))
    tops = {"a": TOPS["encoded"], "b": f"type: INT {ONE}"}
    layer = cos_layer(tmp_path / "rows.json", tops, more='dataframe_format: "json"')
    source = open_source(layer, "TEST", options={"on_bad_rows": "skip"})
    batches = list(source.batches(epochs=1))
    assert np.concatenate([batch["b"].ravel() for batch in batches]).tolist() == [0, 1, 4, 5]
    found = np.concatenate([batch["a"] for batch in batches])
    np.testing.assert_array_equal(found, wanted(6)["encoded"][[0, 1, 4, 5]])
    assert [(bad.row, bad.column) for bad in source.skips.rows] == [(2, "c_a"), (3, "c_b")]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    """With the nearest of those that are there."""
    pq.write_table(pa.table({"c_lable": [1]}), tmp_path / "rows.parquet")
    layer = cos_layer(tmp_path / "rows.parquet", {"label": f"type: INT {ONE}"})
    with pytest.raises(DataError, match=r"no column 'c_label'; there are c_lable.*Did you mean"):
        next(open_source(layer).batches())


def test_to_dask_has_known_types(tmp_path: Path, make_layer: Callable[..., Any]) -> None:
    """Item 4: every column has an Arrow type and every row its number before anything is computed."""
    pq.write_table(pa.table(all_types()), tmp_path / "rows.parquet", row_group_size=3)
    source = open_source(cos_layer(tmp_path / "rows.parquet", TOPS), options={"partitions": 3})
    lazy = source.to_dask()
    assert lazy.npartitions == 3 and lazy.divisions == (0, 2, 4, 6)
    assert lazy.loc[3:4].compute(scheduler="synchronous")["id"].tolist() == ["row3", "row4"]
    assert str(lazy.dtypes["c_ints"]) == "list<item: int64>[pyarrow]"
    frame = lazy.compute(scheduler="synchronous")
    assert (frame.dtypes == lazy.dtypes).all()
    copy = frame_source(cos_layer("", TOPS), "TEST", frame=frame)
    np.testing.assert_array_equal(next(copy.batches())["raw"], wanted(3)["raw"])


def test_a_column_named_label_may_hold_fractions(tmp_path: Path) -> None:
    """Only an image's label is a whole number; float64 is what pandas makes of numbers."""
    layer = cos_layer(tmp_path / "rows.parquet", {"label": "type: FLOAT sample_num_axes: 0"})
    layer.cos_data_param.top[0].name = "label"
    pq.write_table(pa.table({"label": pa.array([0.5, 1.25, -2.0])}), tmp_path / "rows.parquet")
    assert next(open_source(layer).batches())["label"].tolist() == [0.5, 1.25, -2.0]


def test_shuffling_holds_few_large_rows(tmp_path: Path) -> None:
    """Rows of a megabyte are mixed by the hundred, not by the thousand; small ones as before."""
    large = {"image": "type: RAW_IMAGE channels: 3 height: 600 width: 600 transform_param { }"}
    assert open_source(cos_layer(tmp_path / "rows.parquet", large)).shuffle_window == (128 << 20) // (3 * 600 * 600)
    assert open_source(cos_layer(tmp_path / "rows.parquet", {"float": TOPS["float"]})).shuffle_window == 4096
