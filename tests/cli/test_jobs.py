"""``cosdask run`` and its relatives: which verbs are done, in which order, and what they leave.

A stand-in takes the place of the cluster.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pandas as pd
import pytest
from dask import dataframe as dd

from cosdask.cli import clusters
from cosdask.cli.main import main
from cosdask.config import Config
from cosdask.proto import caffe_pb2

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" inner_product_param { num_output: 3 } }
"""
SOLVER = 'net: "net.prototxt"\nbase_lr: 0.01\nlr_policy: "fixed"\nmax_iter: 10\n'


def command(words: str) -> int:
    return main(words.split())


def write_weights(path: Path) -> None:
    """Weights that fit the net."""
    net = caffe_pb2.NetParameter()
    layer = net.layer.add(name="ip1", type="InnerProduct")
    for shape in ((3, 4), (3,)):
        blob = layer.blobs.add(data=[0.5] * math.prod(shape))
        blob.shape.dim.extend(shape)
    path.write_bytes(net.SerializeToString())


class StandIn:
    """Records what is asked of a ``CaffeOnDask``."""

    calls: list[str]
    config: Config

    def __init__(self, client: Any, config: Config) -> None:
        StandIn.calls, StandIn.config = [], config

    def check_output(self) -> None:
        self.calls.append("check_output")

    def train(self) -> None:
        self.calls.append("train")
        Path(self.config.model).write_text("weights")

    def train_with_validation(self) -> None:
        self.calls.append("train_with_validation")
        Path(self.config.model).write_text("weights")

    def test(self) -> dict[str, Any]:
        self.calls.append("test")
        return {"accuracy": 0.974, "loss": 0.1}

    def features(self) -> Any:
        self.calls.append("features")
        rows = pd.DataFrame({"SampleID": ["0", "1"], "score": [1.0, 2.0]})
        return dd.from_pandas(rows, npartitions=1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A solver and its net in the working directory, and the stand-in for the cluster."""

    @contextlib.contextmanager
    def connect(cluster: str, config: Config) -> Iterator[None]:
        yield None

    monkeypatch.setitem(sys.modules, "cosdask.parallel", SimpleNamespace(CaffeOnDask=StandIn))
    monkeypatch.setattr(clusters, "connect", connect)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    with dask.config.set(scheduler="synchronous"):
        yield tmp_path


@pytest.mark.parametrize(
    ("flags", "calls"),
    [
        ("-train", ["train"]),
        ("-test -train", ["train", "test"]),
        ("-features ip1 -train", ["check_output", "train", "features"]),
        ("-train -test -features ip1", ["check_output", "train", "features"]),
    ],
)
def test_training_comes_first_and_features_take_the_place_of_test(flags: str, calls: list[str], folder: Path) -> None:
    """And whether features would arrive is looked at before the training, not after it."""
    assert main(["run", "-conf", "solver.prototxt", "-model", "m", "-output", "out", *flags.split()]) == 0
    assert StandIn.calls == calls


@pytest.mark.parametrize(
    ("extra", "call"),
    [
        ("test_iter: 5\ntest_interval: 10\n", "train_with_validation"),
        ("test_iter: 0\ntest_interval: 0\n", "train"),
        ("test_iter: 0\ntest_interval: 10\n", "train"),
        ("test_iter: 5\n", "train"),
    ],
)
def test_validation_needs_test_interval_and_test_iter(
    extra: str, call: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And then the command says where the validations are."""
    (folder / "solver.prototxt").write_text(SOLVER + extra)
    assert main(["train", "--conf", "solver.prototxt", "--model", "m"]) == 0
    assert StandIn.calls == [call]
    told = "validations: m.run/validation.csv\n" in capsys.readouterr().out
    assert told == (call == "train_with_validation")


def test_test_results_are_printed_and_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_weights(folder / "m")
    assert command("run -conf solver.prototxt -test -model m -output out/result") == 0
    assert (folder / "out" / "result").read_text() == "accuracy: 0.974\nloss: 0.1\n"
    assert "accuracy: 0.974\n" in capsys.readouterr().out


def test_run_writes_to_output_by_default_as_in_caffe_on_spark(folder: Path) -> None:
    write_weights(folder / "m")
    assert command("run -conf solver.prototxt -test -model m") == 0
    assert (folder / "output").read_text() == "accuracy: 0.974\nloss: 0.1\n"


def test_the_verb_test_prints_only_unless_an_output_is_named(folder: Path) -> None:
    write_weights(folder / "m")
    before = sorted(folder.iterdir())
    assert command("test --conf solver.prototxt --model m") == 0
    assert sorted(folder.iterdir()) == before


def test_features_are_written_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_weights(folder / "m")
    words = "features --conf solver.prototxt --model m --features ip1 --output f --output-format parquet"
    assert command(words) == 0
    assert [path.name for path in (folder / "f").iterdir()] == ["part-00000.parquet"]
    assert "f (2 rows)" in capsys.readouterr().out


def test_overwrite_allows_outputs_that_exist(folder: Path) -> None:
    for name in ("m", "out"):
        (folder / name).write_text("old")
    assert command("run -conf solver.prototxt -train -test -model m -output out --overwrite") == 0
    assert (folder / "out").read_text() == "accuracy: 0.974\nloss: 0.1\n"


def test_notes_are_shown_before_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("run -conf solver.prototxt -train -test -features ip1 -model m -connection ethernet") == 0
    said = capsys.readouterr().err
    assert "cosdask: note: -test is left out" in said and "cosdask: note: -connection ethernet" in said


def test_weights_that_the_solver_names_are_looked_for_before_work(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside the solver too; where something else says what to begin from, they do not count."""
    (folder / "in").mkdir()
    (folder / "in" / "solver.prototxt").write_text(SOLVER + 'weights: "first.caffemodel"\n')
    (folder / "in" / "net.prototxt").write_text(NET)
    assert command("train --conf in/solver.prototxt --model m") == 1
    assert "first.caffemodel" in capsys.readouterr().err
    write_weights(folder / "w")
    for begin in ("--weights w", "--snapshot w", "--resume --weights gone"):
        assert command(f"train --conf in/solver.prototxt --model m --overwrite {begin}") == 0
    assert "-weights gone has no effect with --resume" in capsys.readouterr().err
    write_weights(folder / "in" / "first.caffemodel")
    assert command("train --conf in/solver.prototxt --model m --overwrite") == 0


def test_options_reach_the_job(folder: Path) -> None:
    write_weights(folder / "w")
    words = "train -conf solver.prototxt -model m -clusterSize 2 --seed 7 --on-bad-rows skip -weights w -persistent"
    assert command(words) == 0
    wanted = Config(
        conf="solver.prototxt", model="m", train=True, clusterSize=2, seed=7, on_bad_rows="skip", weights="w",
        persistent=True,
    )  # fmt: skip
    assert StandIn.config == wanted
