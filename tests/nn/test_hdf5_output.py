"""HDF5Output: what its layer names lies in a file, and everything else is as without it."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

import cosdask
from cosdask.data import Segment, get_source
from cosdask.errors import NetError, StorageError
from cosdask.nn.layers.hdf5_output import OutputFiles
from cosdask.solver import Evaluator

NET = """
layer { name: "in" type: "Input" top: "x" top: "label" input_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "keep" type: "HDF5Output" bottom: "ip" bottom: "label" hdf5_output_param { file_name: "FILE" } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


def batch(rows: int, seed: int) -> dict[str, np.ndarray]:
    """A batch of inputs."""
    values = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    return {"x": values, "label": np.arange(rows, dtype=np.float32)}


def test_forward_appends_batches(tmp_path: Path) -> None:
    """Batches of any size follow each other; a new net begins the file anew; HDF5Data reads it back."""
    path = tmp_path / "kept.h5"
    path.write_bytes(b"an older file")
    net = cosdask.Net.from_text(NET.replace("FILE", str(path)), seed=1)
    assert net.outputs == ["prob"]
    first = net.forward(batch(4, 1))
    assert list(first) == ["prob"]
    second = net.forward(batch(3, 2))
    with h5py.File(path) as file:
        assert file["data"].shape == (7, 2) and file["data"].dtype == np.float32
        assert file["label"][:].tolist() == [0, 1, 2, 3, 0, 1, 2]
        kept = np.exp(file["data"][:])
        np.testing.assert_allclose(
            kept / kept.sum(axis=1, keepdims=True), np.concatenate([first["prob"], second["prob"]]), rtol=1e-5
        )
    (tmp_path / "list.txt").write_text("kept.h5\n")
    param = 'hdf5_data_param { source: "list.txt" batch_size: 7 }'
    (tmp_path / "back.prototxt").write_text(f'layer {{ name: "d" type: "HDF5Data" top: "data" top: "label" {param} }}')
    found = next(get_source(tmp_path / "back.prototxt", "TEST").batches())
    assert found["label"].tolist() == [0, 1, 2, 3, 0, 1, 2]
    cosdask.Net.from_text(NET.replace("FILE", str(path)), seed=1).forward(batch(4, 1))
    with h5py.File(path) as file:
        assert len(file["data"]) == 4


def test_pure_functions_write_nothing(tmp_path: Path) -> None:
    """apply, loss and a forward that asks for blobs by name leave no file, jitted or not."""
    path = tmp_path / "kept.h5"
    net = cosdask.Net.from_text(NET.replace("FILE", str(path)), seed=1)
    inputs = batch(4, 1)
    net.apply(net.params, inputs)
    jax.jit(lambda params: net.apply(params, inputs)[0])(net.params)
    net.forward(inputs, ["prob"])
    assert os.listdir(tmp_path) == []


def test_a_test_over_rows_keeps_each_once(tmp_path: Path) -> None:
    """Invariant 3: what ``cosdask test`` runs on a worker writes its own rows, a short last batch too, to its part."""
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["x"] = np.random.default_rng(1).normal(size=(11, 3))
        file["label"] = np.arange(11)
    (tmp_path / "list.txt").write_text("rows.h5\n")
    param = 'hdf5_data_param { source: "list.txt" batch_size: 4 }'
    layer = f'layer {{ name: "in" type: "HDF5Data" top: "x" top: "label" {param} }}'
    rest = NET[NET.index('layer { name: "ip"') :].replace("FILE", f"{tmp_path}/k.h5")
    (tmp_path / "net.prototxt").write_text(layer + rest)
    net = cosdask.Net(tmp_path / "net.prototxt", seed=1)
    source = get_source(net, "TEST")
    totals = Evaluator(net, source).totals(net.params, [Segment(0, 2, 11)], OutputFiles(net.layers, "-1-of-2"))
    assert totals.rows == 9
    with h5py.File(tmp_path / "k-1-of-2.h5") as file:
        assert file["label"][:].tolist() == list(range(2, 11))
        wanted = net.forward(next(source.batches()), ["ip"])["ip"][2:]
        np.testing.assert_allclose(file["data"][:2], wanted, rtol=1e-5)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """No name, a URL, rows that do not go together, a folder that is not there."""
    for name, message in (("", "needs a file_name"), ("hdfs://nn/x.h5", "local disks only")):
        with pytest.raises(NetError, match=f'layer "keep".*{message}'):
            cosdask.Net.from_text(NET.replace("FILE", name))
    with pytest.raises(NetError, match="the same number of rows"):
        cosdask.Net.from_text(NET.replace("FILE", "x.h5").replace("shape { dim: 4 } }", "shape { dim: 5 } }"))
    lost = tmp_path / "lost" / "x.h5"
    with pytest.raises(StorageError, match=r"lost/x\.h5: cannot be written"):
        cosdask.Net.from_text(NET.replace("FILE", str(lost)), seed=1).forward(batch(4, 1))
