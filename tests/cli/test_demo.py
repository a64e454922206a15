"""The demo: its data, the folder it may clear, and the whole of it."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from dask import dataframe as dd

from cosdask.cli.demo_data import load_digits, prepare_folder, write_prototxts
from cosdask.cli.main import main
from cosdask.cli.ready import ready_prototxt
from cosdask.data import get_source
from cosdask.errors import StorageError
from cosdask.proto import read_net, read_solver, to_text


def test_digits_are_split_evenly_by_class_and_shuffled_the_same_each_time() -> None:
    """Accuracies of two demos can be compared only over the same split; sorted rows would spoil the training."""
    train, test = load_digits()
    assert np.bincount(train.labels).tolist() == [400] * 10 and np.bincount(test.labels).tolist() == [100] * 10
    rows = np.concatenate([train.images, test.images]).reshape(5000, -1)
    assert rows.dtype == np.uint8 and rows.max() > 250 and len(np.unique(rows, axis=0)) > 4990
    assert all(len(np.unique(digits.labels[:64])) == 10 for digits in (train, test))
    again = load_digits()[1]
    assert np.array_equal(again.images, test.images) and np.array_equal(again.labels, test.labels)


def test_overwrite_removes_an_earlier_demo_and_nothing_else(tmp_path: Path) -> None:
    """--overwrite on a folder with other files must leave those alone."""
    (tmp_path / "mine.txt").write_text("kept")
    (tmp_path / "mnist_train_lmdb").mkdir()
    (tmp_path / "lenet_iter_9.solverstate").write_text("old")
    with pytest.raises(StorageError, match=r"already there.*--overwrite"):
        prepare_folder(tmp_path, overwrite=False)
    prepare_folder(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_with_other_files_only_needs_no_overwrite(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    prepare_folder(tmp_path, overwrite=False)
    prepare_folder(tmp_path / "new" / "folder", overwrite=False)
    assert (tmp_path / "new" / "folder").is_dir()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("a file")
    with pytest.raises(StorageError, match="--output"):
        prepare_folder(tmp_path / "demo", overwrite=True)
    assert (tmp_path / "demo").read_text() == "a file"


def test_the_demo_trains_the_ready_lenet_on_data_beside_it(tmp_path: Path) -> None:
    """Only the places of the data differ, so that the folder works wherever it is."""
    net, solver = write_prototxts(tmp_path)
    ready = read_net(str(ready_prototxt("lenet_memory_train_test.prototxt")))
    for layer in ready.layer:
        if layer.HasField("memory_data_param"):
            layer.memory_data_param.source = Path(layer.memory_data_param.source).name
    assert to_text(read_net(str(net))) == to_text(ready)
    assert read_solver(str(solver)).net == net.name


@pytest.mark.parametrize("name", ["lenet_memory.prototxt", "nothing at all"])
def test_a_ready_file_that_does_not_exist_is_answered_with_those_that_do(name: str) -> None:
    with pytest.raises(StorageError, match=r"lenet.*\.prototxt"):
        ready_prototxt(name)


def test_an_earlier_demo_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lenet.caffemodel").write_text("old")
    assert main(["demo", "--output", str(tmp_path)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "lenet.caffemodel").read_text() == "old"


# Dask's reader of parquet calls pandas in a way that pandas 3.1 is about to change.
@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index")
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_goes_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two workers train LeNet to at least 0.96, and everything the demo promises lies in its folder and works."""
    folder = tmp_path / "demo"
    assert main(["demo", "--output", str(folder), "--progress", "none"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    match = re.fullmatch(r"test accuracy (0\.\d{4}) \(1000 rows\)", last)
    assert match and float(match[1]) >= 0.96
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert {"run.json", "validation.csv", "snapshots.json"} <= {path.name for path in (folder / "lenet.run").iterdir()}
    assert list(folder.glob("lenet_iter_*.solverstate"))
    assert len(pd.read_csv(folder / "lenet.run" / "validation.csv")) == 6
    _features_can_be_read(folder)
    _sources_agree(folder)
    _pictures_can_be_classified(folder, capsys)


def _features_can_be_read(folder: Path) -> None:
    for name, rows in (("features.parquet", 1000), ("train_features.parquet", 4000)):
        path = str(folder / name)
        frame = pd.read_parquet(path)
        assert list(frame.columns) == ["SampleID", "ip1", "label"] and frame["SampleID"].nunique() == len(frame) == rows
        assert np.stack(list(frame["ip1"])).shape == (rows, 500)
        assert len(dd.read_parquet(path).compute()) == rows
        assert duckdb.sql(f"select count(*), min(len(ip1)) from '{path}'").fetchall() == [(rows, 500)]


def _sources_agree(folder: Path) -> None:
    """The LMDB that was trained on and the parquet files hold the same digits in the same order."""
    images = next(get_source(str(folder / "lenet_train_test.prototxt"), phase="TEST").batches(epochs=1))
    frame = pd.read_parquet(folder / "mnist_test.parquet")
    assert frame["label"].astype(int).tolist()[:100] == images["label"].astype(int).ravel().tolist()
    pixels = np.frombuffer(b"".join(frame["data"][:100]), np.uint8).reshape(100, 1, 28, 28)
    np.testing.assert_allclose(images["data"] * 256, pixels, atol=1e-4)


def _pictures_can_be_classified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--net", f"{folder}/lenet_train_test.prototxt", "--model", f"{folder}/lenet.caffemodel", "--top", "1"]
    assert main(["predict", str(folder / "digits"), *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    right = [Path(name).name[0] == told.split()[1] for name, told in zip(lines[::2], lines[1::2], strict=True)]
    assert len(right) == 20 and sum(right) >= 17
