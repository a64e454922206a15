"""pycaffe's solvers: real Caffe's training, nets that can be operated on between steps, tests, snapshots, log lines."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import cosdask.pycaffe as caffe
from cosdask.errors import ConfigError, SolverError

TEXT = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 6 momentum: 0.9 random_seed: 3
test_iter: 2 test_interval: 3 test_initialization: false snapshot_prefix: "small" display: 2
"""
NET = """
layer { name: "in" type: "HDF5Data" top: "x" top: "y" hdf5_data_param { source: "list.txt" batch_size: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "y" top: "acc" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small training in the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    with h5py.File("rows.h5", "w") as file:
        file["y"] = np.arange(6, dtype=np.float32) % 3
        file["x"] = np.eye(3, dtype=np.float32)[np.arange(6) % 3] + rng.normal(0, 0.1, (6, 3)).astype(np.float32)
    Path("list.txt").write_text("rows.h5\n")
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(TEXT)
    return tmp_path


@pytest.mark.parametrize(
    "case", ["sgd_momentum_l2", "sgd_batchnorm", "sgd_iter_size", "sgd_shared", "adam", "sgd_clip"]
)
def test_steps_are_caffes(case: str, golden: Path, folder: Path) -> None:
    """Invariant 1: weights and loss after each of 8 steps, and the state that Caffe wrote goes on."""
    shutil.copytree(golden / "solvers" / case, folder, dirs_exist_ok=True)
    with np.load("trajectory.npz", allow_pickle=False) as file:
        wanted = {key: file[key] for key in file.files}
    with h5py.File("rows.h5", "w") as rows:
        rows["x"], rows["y"] = wanted["x"], wanted["y"]
    Path("data_list.txt").write_text("rows.h5\n")

    def check(solver: caffe.Solver, step: int) -> None:
        for key, array in wanted.items():
            if key.startswith(f"step/{step}/"):
                layer, position = key.split("/")[2:]
                actual = solver.net.params[layer][int(position)].data
                np.testing.assert_allclose(actual, array, rtol=1e-4, atol=1e-5, err_msg=key)

    solver = caffe.get_solver("solver.prototxt")
    solver.net.copy_from("start.caffemodel")
    for step in range(1, 9):
        solver.step(1)
        check(solver, step)
        np.testing.assert_allclose(solver.net.blobs["loss"].data, wanted[f"loss/{step}"], rtol=1e-4, atol=1e-5)
    solver.restore("snap_iter_5.solverstate")
    assert solver.iter == 5
    solver.step(3)
    check(solver, 8)


def test_surgery_between_steps_is_seen_by_the_next(folder: Path) -> None:
    """What is written to ``solver.net.params`` is what the step starts from; ``diff`` is what the step subtracted."""
    solver = caffe.SGDSolver("solver.prototxt")
    weight = solver.net.params["ip"][0]
    weight.data[...] = 0
    solver.step(1)
    # from equal scores the loss is log 3, and the step goes against the known gradient
    np.testing.assert_allclose(solver.net.blobs["loss"].data, np.log(3), rtol=1e-5)
    x, y = solver.net.blobs["x"].data, solver.net.blobs["y"].data.astype(int)
    gradient = (np.full((2, 3), 1 / 3) - np.eye(3)[y]).T @ x / 2
    np.testing.assert_allclose(weight.diff, 0.1 * gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weight.data, -0.1 * gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(solver.net.blobs["ip"].diff * 2, np.full((2, 3), 1 / 3) - np.eye(3)[y], rtol=1e-4)


DEEPER = """
layer { name: "in" type: "HDF5Data" top: "x" top: "y" hdf5_data_param { source: "list.txt" batch_size: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
  inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" }
layer { name: "score" type: "InnerProduct" bottom: "ip" top: "score"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "also" type: "InnerProduct" bottom: "ip" top: "also" param { lr_mult: 0 }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "y" top: "loss" }
layer { name: "loss2" type: "SoftmaxWithLoss" bottom: "also" bottom: "y" top: "loss2" loss_weight: 0.5 }
"""


def test_blobs_that_nobody_held_are_those_of_the_step(folder: Path) -> None:
    """A step makes blobs in the middle of the net when they are looked at: the same as where they are watched.

    Dropout with the step's own mask, in place; two readers of a blob; a frozen layer; two losses.
    """
    Path("net.prototxt").write_text(DEEPER)
    free, watched = (caffe.get_solver("solver.prototxt") for _ in range(2))
    held = {name: (blob.data, blob.diff) for name, blob in watched.net.blobs.items()}
    for steps in (1, 2):
        for solver in (free, watched):
            solver.step(steps)
        assert free.net.blobs["ip"].values.waiting and not watched.net.blobs["ip"].values.waiting
        for name, (data, diff) in held.items():
            blob = free.net.blobs[name]
            np.testing.assert_allclose(blob.data, data, rtol=1e-5, atol=1e-6, err_msg=name)
            np.testing.assert_allclose(blob.diff, diff, rtol=1e-4, atol=1e-6, err_msg=name)
        assert np.any(held["ip"][0] == 0) and np.any(held["x"][1] != 0)
        for name, weights in free.net.params.items():
            for mine, other in zip(weights, watched.net.params[name], strict=True):
                np.testing.assert_allclose(mine.data, other.data, rtol=1e-5, atol=1e-6, err_msg=name)
                np.testing.assert_allclose(mine.diff, other.diff, rtol=1e-4, atol=1e-6, err_msg=name)


def test_what_is_written_after_a_step_stays(folder: Path) -> None:
    """A blob that was written to before anybody looked at the others keeps what was written; the step keeps its own."""
    solver = caffe.get_solver("solver.prototxt")
    solver.step(1)
    solver.net.params["ip"][0].data[...] = 7
    solver.net.blobs["x"].data[...] = 5
    solver.net.blobs["ip"].reshape(1, 3)
    assert solver.net.blobs["ip"].data.tolist() == [[0, 0, 0]]
    assert np.all(solver.net.blobs["x"].data == 5) and np.all(np.abs(solver.net.blobs["x"].diff) < 1)
    assert np.all(solver.net.params["ip"][0].data == 7)


def test_test_nets_share_the_weights_and_read_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A test net sees every step and every cut; its forward takes the next batch unless it begins after the data."""
    solver = caffe.get_solver("solver.prototxt")
    test = solver.test_nets[0]
    solver.net.params["ip"][0].data[...] = 20 * np.eye(3)
    assert test.forward()["acc"] == 1.0 and test.blobs["y"].data.tolist() == [0, 1]
    assert test.forward(start="ip")["acc"] == 1.0 and test.blobs["y"].data.tolist() == [0, 1]
    assert test.forward()["acc"] == 1.0 and test.blobs["y"].data.tolist() == [2, 0]
    solver.step(1)
    assert test.params["ip"][0] is solver.net.params["ip"][0]
    assert solver.test_all()[0]["acc"] == 1.0


def test_solve_trains_tests_and_snapshots_and_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``solve`` ends with Caffe's files; the log has Caffe's lines, and none where glog's users ask for silence."""
    solver = caffe.get_solver("solver.prototxt")
    solver.solve()
    assert solver.iter == 6 and Path("small_iter_6.caffemodel").exists()
    lines = [line.split("] ")[1] for line in capsys.readouterr().err.splitlines()]
    assert [line.split(",")[0] for line in lines if "loss = " in line and line.startswith("Iter")] == [
        "Iteration 0",
        "Iteration 2",
        "Iteration 4",
    ]
    assert lines.count("Iteration 3, Testing net (#0)") == 1 == lines.count("Iteration 6, Testing net (#0)")
    assert "Snapshotting to binary proto file small_iter_6.caffemodel" in lines
    monkeypatch.setenv("GLOG_minloglevel", "2")
    again = caffe.get_solver("solver.prototxt")
    again.solve("small_iter_6.solverstate")
    assert again.iter == 6 and capsys.readouterr().err == ""
    np.testing.assert_array_equal(again.net.params["ip"][0].data, solver.net.params["ip"][0].data)


def test_a_restored_run_is_the_undisturbed_one(folder: Path) -> None:
    """Invariant 4: position, history, iteration and what dropout draws follow from the state."""
    dropout = 'layer { name: "drop" type: "Dropout" bottom: "x" top: "x" dropout_param { dropout_ratio: 0.3 } }'
    Path("net.prototxt").write_text(NET.replace('layer { name: "ip"', dropout + ' layer { name: "ip"'))
    whole, part = (caffe.get_solver("solver.prototxt") for _ in range(2))
    whole.step(5)
    part.step(2)
    part.snapshot()
    other = caffe.get_solver("solver.prototxt")
    other.restore("small_iter_2.solverstate")
    other.step(3)
    np.testing.assert_array_equal(other.net.params["ip"][0].data, whole.net.params["ip"][0].data)


def test_the_class_says_the_rule(folder: Path) -> None:
    """``AdamSolver(file)`` is Adam whatever the file says; ``get_solver`` does what the file says."""
    solver = caffe.AdamSolver("solver.prototxt")
    assert solver.param.type == "Adam" and len(solver._history["ip/0"]) == 2
    assert isinstance(caffe.get_solver("solver.prototxt"), caffe.SGDSolver)
    Path("odd.prototxt").write_text(TEXT + 'type: "Adm"')
    with pytest.raises(SolverError, match='"Adam"'):
        caffe.get_solver("odd.prototxt")


@pytest.mark.parametrize(
    "call", [lambda: caffe.set_device(64), lambda: caffe.set_solver_count(2), lambda: caffe.set_solver_rank(1)]
)
def test_what_one_process_cannot_do_is_refused(call: Callable[[], None]) -> None:
    """No switch is taken and then ignored."""
    with pytest.raises(ConfigError, match=r"JAX sees|cosdask\.CaffeOnDask|rank is 0"):
        call()
