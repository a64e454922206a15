"""Invariant 3: test and features see every row once, whatever the workers, partitions and batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest_parallel import config
from distributed import Client
from problems import Problem, digits, make_problem

import cosdask
from cosdask.data import write_lmdb, write_parquet
from cosdask.errors import DataError, NetError, StorageError

ROWS, BATCH = 1003, 64


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A problem whose weights are drawn and saved, with 1,003 test rows in batches of 64."""
    made = make_problem(
        tmp_path_factory.mktemp("trained") / "problem",
        rows=10,
        test_rows=ROWS,
        test_batch=BATCH,
        settings="max_iter: 3 test_iter: 2",
    )
    Path(made.model).parent.mkdir()
    cosdask.Net(made.folder / "net.prototxt", seed=7).save(made.model)
    return made


def one_by_one(problem: Problem, blobs: list[str]) -> dict[str, np.ndarray]:
    """Every row's blobs, forwarded in one piece without Dask."""
    net = cosdask.Net(problem.folder / "net.prototxt", weights=problem.model)
    batches = list(cosdask.get_source(problem.folder / "net.prototxt", phase="TEST").batches(epochs=1))
    inputs = {name: np.concatenate([batch[name] for batch in batches]) for name in ("data", "label")}
    return net.forward(inputs, blobs)


def test_test_averages_over_every_row_once(client: Client, trained: Problem) -> None:
    """1,003 rows over three workers in batches of 64 give the mean over all rows, not over full batches."""
    found = cosdask.CaffeOnDask(client, config(trained, clusterSize=None)).test()
    scores = one_by_one(trained, ["ip2", "label"])
    right = scores["ip2"].argmax(axis=1) == scores["label"]
    assert list(found) == ["accuracy", "loss"]
    assert found["accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    logits = scores["ip2"] - scores["ip2"].max(axis=1, keepdims=True)
    log_probability = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -log_probability[np.arange(ROWS), scores["label"].astype(int)].mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


def test_an_output_with_a_cell_a_row_is_averaged_number_by_number(client: Client, tmp_path: Path) -> None:
    """Three rows of two numbers over three workers in batches of two: the mean of each number (invariant 3)."""
    rows = np.array([[20.37, -11.34], [56.87, 45.89], [123.56, 127.30]], np.float32)
    pq.write_table(pa.table({"pair": pa.array(rows.tolist(), pa.list_(pa.float32()))}), tmp_path / "rows.parquet")
    data = """layer {{ name: "in" type: "CoSData" top: "pair" source_class: "com.yahoo.ml.caffe.DataFrameSource"
      include {{ phase: {} }} cos_data_param {{ source: "rows.parquet" batch_size: 2
      top {{ name: "pair" type: FLOAT_ARRAY channels: 2 sample_num_axes: 1 }} }} }}"""
    same = (
        'layer { name: "same" type: "InnerProduct" bottom: "pair" top: "same" inner_product_param { num_output: 2 } }'
    )
    (tmp_path / "net.prototxt").write_text("\n".join([data.format("TRAIN"), data.format("TEST"), same]))
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 1 lr_policy: "fixed" test_iter: 1\n')
    net = cosdask.Net(tmp_path / "net.prototxt")
    net.params = net.from_blobs({"same": [np.eye(2, dtype=np.float32), np.zeros(2, np.float32)]})
    net.save(tmp_path / "same.caffemodel")
    settings = cosdask.Config(conf=str(tmp_path / "solver.prototxt"), model=str(tmp_path / "same.caffemodel"))
    found = cosdask.CaffeOnDask(client, settings).test()
    assert found["same"] == pytest.approx(rows.mean(axis=0).tolist(), abs=1e-5)


def test_features_give_every_row_once(client: Client, trained: Problem) -> None:
    """1,003 rows in, 1,003 rows out, each SampleID once, each cell what the net gives alone."""
    lazy = cosdask.CaffeOnDask(client, config(trained, features="ip1,ip2", label="label", clusterSize=None)).features()
    assert isinstance(lazy, dd.DataFrame)
    assert list(lazy.columns) == ["SampleID", "ip1", "ip2", "label"]
    frame = lazy.compute()
    assert list(frame["SampleID"]) == [f"{row:08d}" for row in range(ROWS)]
    wanted = one_by_one(trained, ["ip1", "ip2", "label"])
    for blob in ("ip1", "ip2"):
        np.testing.assert_allclose(np.stack(frame[blob].to_numpy()), wanted[blob], rtol=1e-5, atol=1e-6)
    assert [cell[0] for cell in frame["label"]] == wanted["label"].tolist()


def test_features_of_a_summed_blob_repeat_its_batch(client: Client, trained: Problem) -> None:
    """A blob without a batch axis has the batch's value in each of the batch's rows."""
    frame = cosdask.CaffeOnDask(client, config(trained, clusterSize=None)).features(blobs=["accuracy"]).compute()
    values = np.stack(frame["accuracy"].to_numpy())[:, 0]
    scores = one_by_one(trained, ["ip2", "label"])
    right = scores["ip2"].argmax(axis=1) == scores["label"]
    assert values[:BATCH] == pytest.approx(right[:BATCH].mean(), abs=1e-6)
    assert values[-1] == pytest.approx(right[ROWS - ROWS % BATCH :].mean(), abs=1e-6)


def test_features_survive_parquet(client: Client, trained: Problem, tmp_path: Path) -> None:
    """The lazy frame keeps its types through Dask's own parquet writer."""
    lazy = cosdask.CaffeOnDask(client, config(trained)).features(blobs=["ip2"])
    lazy.to_parquet(tmp_path / "features", write_index=False)
    table = pa.parquet.read_table(tmp_path / "features")
    assert table.num_rows == ROWS
    assert table.schema.field("ip2").type == pa.list_(pa.float32())


@pytest.mark.parametrize("form", ["path", "source", "pandas", "dask"])
def test_rows_may_come_from_elsewhere(client: Client, trained: Problem, tmp_path: Path, form: str) -> None:
    """A path, a Source, a pandas and a dask dataframe are sources too, and each row of theirs comes out once."""
    images, labels = digits(70, seed=9)
    parquet = _with_memory_layer(trained, tmp_path, images, labels)
    frame = pd.read_parquet(parquet / "test.parquet", dtype_backend="pyarrow")
    sources = {
        "path": str(parquet / "test.parquet"),
        "source": cosdask.get_source(parquet / "net.prototxt", phase="TEST"),
        "pandas": frame,
        "dask": dd.from_pandas(frame, npartitions=4),
    }
    settings = cosdask.Config(conf=str(parquet / "solver.prototxt"), model=trained.model, progress="none")
    found = cosdask.CaffeOnDask(client, settings).features(sources[form], blobs=["label"]).compute()
    assert sorted(cell[0] for cell in found["label"]) == sorted(labels.tolist())


def _with_memory_layer(problem: Problem, folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """The same net reading a parquet file through ImageDataFrame."""
    text = (problem.folder / "net.prototxt").read_text()
    memory = """layer { name: "data" type: "MemoryData" top: "data" top: "label" source_class: "ImageDataFrame"
      transform_param { scale: 0.00390625 }
      memory_data_param { source: "test.parquet" batch_size: 16 channels: 1 height: 12 width: 12 } }
    """
    layers = text[text.index('layer { name: "conv1"') :]
    (folder / "net.prototxt").write_text(memory + layers)
    (folder / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" test_iter: 1')
    write_parquet(folder / "test.parquet", images, labels, rows_per_group=16)
    return folder


def test_training_after_features_and_features_after_training(client: Client, problem: Callable[..., Problem]) -> None:
    """The same workers do both, one after the other."""
    made = problem(settings="max_iter: 4 test_iter: 1")
    cos = cosdask.CaffeOnDask(client, config(made))
    cos.train()
    before = cos.features(blobs=["ip2"]).compute()
    cos.train()
    after = cos.features(blobs=["ip2"]).compute()
    np.testing.assert_array_equal(np.stack(before["ip2"].to_numpy()), np.stack(after["ip2"].to_numpy()))


def test_a_blob_that_is_not_there_is_refused_at_once(client: Client, trained: Problem) -> None:
    """The nearest name is offered before anything is computed."""
    with pytest.raises(NetError, match=r'no blob "ip3".*"ip2"'):
        cosdask.CaffeOnDask(client, config(trained)).features(blobs=["ip3"])


def test_a_missing_model_is_refused_at_once(client: Client, trained: Problem) -> None:
    """No test runs with random weights."""
    with pytest.raises(StorageError, match=r"smal\.caffemodel"):
        cosdask.CaffeOnDask(client, config(trained, model=trained.model.replace("small", "smal"))).test()


def test_a_row_that_cannot_be_read_is_named(client: Client, trained: Problem, tmp_path: Path) -> None:
    """The error of a worker reaches the client with the row's id."""
    write_lmdb(tmp_path / "broken", [b"\xff\xd8\xff is no image"] * 3, [0, 1, 2])
    with pytest.raises(DataError, match="00000000"):
        cosdask.CaffeOnDask(client, config(trained)).test(str(tmp_path / "broken"))
