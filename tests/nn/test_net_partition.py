"""A net over dataframes (``map_partition``, ``meta``), and how a net travels to where the rows are."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cosdask import Net
from cosdask.errors import DataError, NetError, WeightsError
from cosdask.nn.programs import Program

BATCH = 4
FROM_ROWS = f"""
layer {{ name: "data" type: "MemoryData" top: "data" top: "label" include {{ phase: TEST }}
  transform_param {{ crop_size: 6 scale: 0.5 mean_value: 10 }}
  memory_data_param {{ source: "nowhere" batch_size: {BATCH} channels: 3 height: 8 width: 8 }} }}
"""
BARE = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } } }'
FLAT = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 4 dim: 7 } } }'
REST = """
layer { name: "same" type: "Power" bottom: "data" top: "same" }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 5
  weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "total" type: "Reduction" bottom: "ip" top: "total" }
"""


@pytest.fixture(scope="module")
def net() -> Net:
    return Net.from_text(FROM_ROWS + REST, seed=1)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)


def finished(images: np.ndarray) -> np.ndarray:
    """What the TEST layer makes of images (N, H, W, C): center crop, mean, scale."""
    return (images[:, 1:7, 1:7].transpose(0, 3, 1, 2).astype(np.float32) - 10) * np.float32(0.5)


def column(frame: pd.DataFrame, blob: str) -> np.ndarray:
    return np.stack([np.asarray(cell, np.float32) for cell in frame[blob]])


def raw_frame(images: np.ndarray) -> pd.DataFrame:
    cells = pd.array([image.tobytes() for image in images], dtype=pd.ArrowDtype(pa.binary()))
    return pd.DataFrame({"name": [f"r{i}" for i in range(len(images))], "data": cells})


def png_frame(images: np.ndarray) -> pd.DataFrame:
    files = [cv2.imencode(".png", image)[1].tobytes() for image in images]
    return pd.DataFrame({"data": pd.array(files, dtype=pd.ArrowDtype(pa.binary()))})


def array_frame(arrays: np.ndarray) -> pd.DataFrame:
    kind = pd.ArrowDtype(pa.list_(pa.float32()))
    return pd.DataFrame({"data": pd.array([array.ravel().tolist() for array in arrays], dtype=kind)})


@pytest.mark.parametrize("make", [raw_frame, png_frame])
@pytest.mark.parametrize("count", [1, 4, 10])
def test_bytes_are_decoded_and_transformed(net: Net, images: np.ndarray, make, count: int) -> None:
    """Raw interleaved bytes and encoded images alike: the TEST transform, and every row by itself."""
    frame = make(images[:count])
    result = net.map_partition(frame, ["same", "ip"])
    assert list(result.columns) == [*frame.columns, "same", "ip"]
    np.testing.assert_array_equal(column(result, "same"), finished(images[:count]).reshape(count, -1))
    wanted = net.forward({"data": finished(images[:count])}, blobs=["ip"])["ip"]
    np.testing.assert_allclose(column(result, "ip"), wanted, rtol=1e-5, atol=1e-5)
    assert list(frame.columns) == [name for name in result.columns if name not in ("same", "ip")]


@pytest.mark.parametrize("nested", [False, True])
def test_arrays_are_transformed_as_images_are(net: Net, images: np.ndarray, nested: bool) -> None:
    """Floats in Caffe's layout take the same crop, mean and scale."""
    planes = images.transpose(0, 3, 1, 2).astype(np.float32)
    result = net.map_partition(pd.DataFrame({"data": list(planes)}) if nested else array_frame(planes), ["same"])
    np.testing.assert_allclose(column(result, "same"), finished(images).reshape(10, -1))


@pytest.mark.parametrize("nested", [False, True])
def test_transform_false_feeds_arrays_as_they_are(net: Net, images: np.ndarray, nested: bool) -> None:
    """Flat or nested arrays of the net's own size."""
    given = finished(images)
    frame = pd.DataFrame({"pixels": list(given)}) if nested else array_frame(given).rename(columns={"data": "pixels"})
    result = net.map_partition(frame, ["same"], column="pixels", transform=False)
    np.testing.assert_array_equal(column(result, "same"), given.reshape(10, -1))


def test_nets_with_bare_inputs_take_arrays_and_images(images: np.ndarray) -> None:
    """There is no transform to apply; inputs of any rank take arrays, image inputs take bytes."""
    net, small = Net.from_text(BARE + REST), np.ascontiguousarray(images[:, :6, :6])
    planes = small.transpose(0, 3, 1, 2).astype(np.float32)
    for frame in (raw_frame(small), array_frame(planes)):
        np.testing.assert_array_equal(column(net.map_partition(frame, ["same"]), "same"), planes.reshape(10, -1))
    flat, rows = Net.from_text(FLAT + REST), np.random.default_rng(0).standard_normal((6, 7)).astype(np.float32)
    np.testing.assert_array_equal(column(flat.map_partition(array_frame(rows), ["same"]), "same"), rows)
    with pytest.raises(NetError, match=r'input "data" has shape \(4, 7\): bytes are decoded for image inputs'):
        flat.map_partition(raw_frame(small), ["same"])


def test_columns_are_float_lists_and_the_index_stays(net: Net, images: np.ndarray) -> None:
    """Cells are 1-D float32 of an Arrow type, as meta says, also for an index with repeated values."""
    frame = raw_frame(images).set_index(pd.Index([7, 7, 1, 2, 3, 4, 5, 6, 8, 9], name="key"))
    result = net.map_partition(frame, ["ip"])
    assert result.index.equals(frame.index)
    meta = net.meta(frame, ["ip"])
    assert len(meta) == 0
    assert (meta.dtypes == result.dtypes).all()
    assert meta["ip"].dtype == pd.ArrowDtype(pa.list_(pa.float32()))
    assert len(result["ip"].iloc[0]) == 5


def test_empty_frames_are_fine(net: Net, images: np.ndarray) -> None:
    """No rows in, no rows out, with the same columns and types."""
    empty = net.map_partition(raw_frame(images).iloc[:0], ["ip", "same"])
    full = net.map_partition(raw_frame(images), ["ip", "same"])
    assert len(empty) == 0
    assert (empty.dtypes == full.dtypes).all()


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_dask_dataframe_with_an_empty_partition(net: Net, images: np.ndarray, scheduler: str) -> None:
    """ddf.map_partitions with net.meta: every row once, in order, short and empty partitions included."""
    frame = raw_frame(images)
    parts = [frame.iloc[:5], frame.iloc[5:5], frame.iloc[5:6], frame.iloc[6:]]
    ddf = dd.from_map(lambda part: part, parts, meta=frame.iloc[:0])
    lazy = ddf.map_partitions(net.map_partition, blobs=["ip"], meta=net.meta(ddf, ["ip"]))
    with dask.config.set(scheduler=scheduler):
        result = lazy.compute()
    assert list(result["name"]) == list(frame["name"])
    np.testing.assert_allclose(column(result, "ip"), column(net.map_partition(frame, ["ip"]), "ip"), rtol=1e-5)


def test_blobs_that_sum_up_the_batch_are_the_same_in_every_row(images: np.ndarray) -> None:
    """A blob without a batch axis: its value for the batch the row was in."""
    net = Net.from_text(FROM_ROWS + REST, seed=1)
    result = net.map_partition(raw_frame(images[:6]), ["total", "ip"])
    totals, rows = column(result, "total"), column(result, "ip")
    np.testing.assert_allclose(totals[:4], np.full((4, 1), rows[:4].sum()), rtol=1e-4)
    np.testing.assert_allclose(totals[4:], np.full((2, 1), rows[4:].sum()), rtol=1e-4)


def test_blobs_whose_rows_are_not_the_batchs_are_refused() -> None:
    """A blob with two rows for each that was fed cannot be told row by row."""
    text = FLAT + 'layer { name: "c" type: "Concat" bottom: "data" bottom: "data" top: "c" concat_param { axis: 0 } }'
    with pytest.raises(NetError, match='blob "c" has 8 rows for a batch of 4'):
        Net.from_text(text).map_partition(array_frame(np.zeros((3, 7))), ["c"])


def test_recurrent_layers_start_anew_in_every_batch() -> None:
    """The result of a partition does not depend on the partitions before it."""
    text = (
        'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 dim: 3 } } }'
        'layer { name: "c" type: "DummyData" top: "cont" dummy_data_param { shape { dim: 1 dim: 1 } '
        "data_filler { value: 1 } } }"
        'layer { name: "r" type: "RNN" bottom: "x" bottom: "cont" top: "h" recurrent_param { num_output: 2 '
        'weight_filler { type: "gaussian" std: 1 } } }'
    )
    net, frame = Net.from_text(text, seed=0), array_frame(np.ones((1, 3)))
    first, second = (net.map_partition(frame, ["h"], transform=False) for _ in range(2))
    np.testing.assert_array_equal(column(first, "h"), column(second, "h"))


@pytest.mark.parametrize(
    ("frame", "keywords", "error", "message"),
    [
        ({"data": [b"x"]}, {"blobs": ["ipp"]}, NetError, r'no blob "ipp"\. Did you mean "ip"'),
        ({"data": [b"x"]}, {"blobs": "ip"}, NetError, "give a list of names"),
        ({"dat": [b"x"]}, {"blobs": ["ip"]}, DataError, r'no column "data"\. Did you mean "dat"'),
        ({"data": ["b'\\x00'"]}, {"blobs": ["ip"]}, DataError, "Dask has turned them into text"),
        ({"data": [b"\x89PNG no image"]}, {"blobs": ["ip"]}, DataError, "row 0"),
        ({"data": [b"short"]}, {"blobs": ["ip"]}, DataError, "row 0"),
        ({"data": [np.zeros(7)]}, {"blobs": ["ip"]}, DataError, 'row 0 of column "data" is no image'),
        ({"data": [b"x"]}, {"blobs": ["ip"], "transform": False}, DataError, "holds bytes; only arrays can be fed"),
        (
            {"data": [np.zeros(7)]},
            {"blobs": ["ip"], "transform": False},
            DataError,
            'row 0 of column "data" is no array',
        ),
        ({"data": [np.zeros(108), None]}, {"blobs": ["ip"], "transform": False}, DataError, "row 1"),
    ],
)
def test_what_cannot_be_fed_is_named(net: Net, frame: dict, keywords: dict, error: type, message: str) -> None:
    """Blob, column or row, and the remedy."""
    with pytest.raises(error, match=message):
        net.map_partition(pd.DataFrame(frame, dtype=object), **keywords)


# -- how a net travels -----------------------------------------------------------------------------------------------


@pytest.fixture
def saved(net: Net, tmp_path: Path) -> Path:
    path = tmp_path / "m.caffemodel"
    net.save(path)
    return path


def weights(net: Net) -> np.ndarray:
    return net.to_blobs(net.params)["ip"][0]


def test_a_pickled_net_is_text_and_the_place_of_its_weights(net: Net, saved: Path) -> None:
    """Invariant 9: no weights pass through client and scheduler when a file holds them."""
    loaded = Net.from_text(FROM_ROWS + REST, weights=saved)
    pickled = pickle.dumps(loaded)
    assert len(pickled) < 2000 < saved.stat().st_size
    assert str(saved).encode() in pickled
    arrived = pickle.loads(pickled)
    np.testing.assert_array_equal(weights(arrived), weights(net))
    assert (arrived.phase, arrived.inputs, arrived.outputs) == (loaded.phase, loaded.inputs, loaded.outputs)


def test_a_relative_path_travels_as_an_absolute_one(
    net: Net, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has another working directory."""
    monkeypatch.chdir(saved.parent)
    pickled = pickle.dumps(Net.from_text(FROM_ROWS + REST, weights=saved.name))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    np.testing.assert_array_equal(weights(pickle.loads(pickled)), weights(net))


def test_a_weights_file_changed_on_the_way_is_noticed(saved: Path) -> None:
    """The hash travels with the path."""
    text = FROM_ROWS + REST.replace('"total"', '"sum"')
    pickled = pickle.dumps(Net.from_text(text, weights=saved))
    Net.from_text(text, seed=99).save(saved)
    with pytest.raises(WeightsError, match="has changed since the net was made"):
        pickle.loads(pickled)


def test_weights_that_are_no_files_travel_themselves(net: Net, saved: Path) -> None:
    """Drawn by the fillers, changed since they were loaded, or the file is gone or rewritten."""
    drawn = Net.from_text(FROM_ROWS + REST, seed=5)
    changed = Net.from_text(FROM_ROWS + REST, weights=saved)
    changed.params = changed.from_blobs({"ip": [weights(changed) + 1, np.zeros(5)]})
    in_place = Net.from_text(FROM_ROWS + REST, weights=saved)
    in_place.params.update(changed.params)
    gone = Net.from_text(FROM_ROWS + REST, weights=saved)
    saved.unlink()
    for sent in (drawn, changed, in_place, gone):
        np.testing.assert_array_equal(weights(pickle.loads(pickle.dumps(sent))), weights(sent))


def test_nets_that_arrive_are_apart(net: Net) -> None:
    """Two copies that come from one pickle have weights of their own."""
    pickled = pickle.dumps(net)
    first, second = pickle.loads(pickled), pickle.loads(pickled)
    before = weights(second)
    first.params = first.init(1234)
    np.testing.assert_array_equal(weights(second), before)
    np.testing.assert_array_equal(weights(pickle.loads(pickled)), before)


def test_a_net_compiles_once_a_process(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tasks, each with its own unpickled net, in several threads, with short batches: one program, traced once."""
    traces: list[tuple[str, ...]] = []
    run = Program._run

    def counted(self: Program, *arguments):
        traces.append(self.blobs)
        return run(self, *arguments)

    monkeypatch.setattr(Program, "_run", counted)
    pickled = pickle.dumps(Net.from_text(FROM_ROWS + REST, seed=6))

    def task(count: int) -> np.ndarray:
        return column(pickle.loads(pickled).map_partition(raw_frame(images[:count]), ["ip"]), "ip")

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(task, [10, 3, 4, 1, 5, 6, 7, 8, 9, 2]))
    assert traces == [("ip",)]
    for result in results:
        np.testing.assert_array_equal(result, results[0][: len(result)])
