"""Invariant 2: N workers do what one process does that takes N ranks' batches, and what one large batch does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest_parallel import config
from distributed import Client
from problems import BATCH_NORM, DROPOUT, Problem, digits, make_problem

import cosdask
from cosdask.data import write_lmdb
from cosdask.proto import read_net, to_text


def assert_close(found: cosdask.Net, wanted: cosdask.Net, tolerance: float = 1e-5) -> None:
    """No weight differs by more than ``tolerance`` of its blob's largest."""
    ours, theirs = found.to_blobs(found.params), wanted.to_blobs(wanted.params)
    assert ours.keys() == theirs.keys()
    for name, blobs in theirs.items():
        for mine, other in zip(ours[name], blobs, strict=True):
            assert np.abs(mine - other).max() <= tolerance * np.abs(other).max(), name


def solved(problem: Problem, ranks: int, shuffle: bool = False) -> cosdask.Net:
    """The net that one process makes of all ranks' batches."""
    with cosdask.Solver(problem.solver, ranks=ranks, shuffle=shuffle) as solver:
        solver.step(solver.param.max_iter)
        return solver.net


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="sgd"),
        pytest.param({"rows": 101}, id="uneven-rows"),
        pytest.param(
            {"settings": 'max_iter: 12 type: "Adam" momentum2: 0.99 iter_size: 2 clip_gradients: 0.5'}, id="adam"
        ),
        pytest.param(
            {"rows": 50, "settings": 'max_iter: 8 type: "Nesterov" regularization_type: "L1" iter_size: 2'},
            id="nesterov",
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"rows": 50, "settings": 'max_iter: 8 type: "AdaGrad" delta: 0.001 clip_gradients: 1'},
            id="adagrad",
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"rows": 50, "settings": 'max_iter: 8 type: "RMSProp" rms_decay: 0.9 delta: 0.01'},
            id="rmsprop",
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"rows": 50, "settings": 'max_iter: 8 type: "AdaDelta" delta: 0.001 iter_size: 2'},
            id="adadelta",
            marks=pytest.mark.long,
        ),
        pytest.param({"middle": BATCH_NORM}, id="batch-norm"),
        pytest.param(
            {"dropout": DROPOUT, "augmented": True, "settings": "max_iter: 12 iter_size: 2"},
            id="random",
        ),
    ],
)
def test_three_workers_are_one_process_with_three_ranks(
    client: Client, problem: Callable[..., Problem], settings: dict[str, object]
) -> None:
    """Whatever the solver, the sums and the random numbers, only rounding differs."""
    made = problem(**settings)
    if any(kind in made.solver.read_text() for kind in ("AdaGrad", "RMSProp")):
        # these two have no momentum
        made.solver.write_text(made.solver.read_text().replace("momentum: 0.9", "momentum: 0"))
    result = cosdask.CaffeOnDask(client, config(made, clusterSize=None)).train()
    assert result.status == "done"
    assert_close(result.net, solved(made, ranks=3), 5e-5 if "dropout" in settings else 1e-5)


def test_shuffled_workers_are_one_process_and_a_resume_goes_on(client: Client, problem: Callable[..., Problem]) -> None:
    """``shuffle`` gives all ranks the same order; ``--resume`` goes on in it without being told."""
    made = problem(rows=101, augmented=True, settings="max_iter: 6")
    cosdask.CaffeOnDask(client, config(made, clusterSize=2, shuffle=True)).train()
    made.solver.write_text(made.solver.read_text().replace("max_iter: 6", "max_iter: 15"))
    resumed = cosdask.CaffeOnDask(client, config(made, clusterSize=2, resume=True)).train()
    assert_close(resumed.net, solved(made, ranks=2, shuffle=True))


def test_one_worker_is_the_bare_solver(client: Client, problem: Callable[..., Problem]) -> None:
    """A group of one makes the solver's own steps, bit for bit."""
    made = problem(settings="max_iter: 12 test_iter: 2 test_interval: 6")
    cosdask.CaffeOnDask(client, config(made, clusterSize=1)).train_with_validation()
    assert_close(cosdask.Net(made.folder / "net.prototxt", weights=made.model), solved(made, ranks=1), 0.0)


def test_two_devices_a_worker_are_ranks_of_their_own(client: Client, problem: Callable[..., Problem]) -> None:
    """``-devices 2`` on two workers does what four ranks do; the prototxt's batch is a device's."""
    made = problem(rows=101, test_rows=50, settings="max_iter: 8 test_iter: 3 test_interval: 8")
    cos = cosdask.CaffeOnDask(client, config(made, clusterSize=2, devices=2))
    frame = cos.train_with_validation()
    assert_close(cosdask.Net(made.folder / "net.prototxt", weights=made.model), solved(made, ranks=4))
    assert frame["iteration"].tolist() == [8]


def test_two_workers_are_one_batch_of_double_size(client: Client, tmp_path: Path) -> None:
    """The rows interleaved as the plan deals them out make the same fifty steps in one worker's double batch."""
    rows, batch, steps = 128, 8, 50
    made = make_problem(tmp_path / "two", rows=rows, batch=batch, settings=f"max_iter: {steps}")
    result = cosdask.CaffeOnDask(client, config(made, clusterSize=2)).train()

    double = make_problem(tmp_path / "one", rows=1, batch=2 * batch, settings=f"max_iter: {steps}")
    images, labels = digits(rows)
    halves = np.arange(rows).reshape(2, rows // 2 // batch, batch)
    order = halves.swapaxes(0, 1).ravel()
    write_lmdb(tmp_path / "interleaved", images[order], labels[order])
    text = (double.folder / "net.prototxt").read_text()
    (double.folder / "net.prototxt").write_text(text.replace("train_lmdb", str(tmp_path / "interleaved")))
    assert_close(result.net, solved(double, ranks=1))


def test_every_rank_starts_with_the_weights_given(client: Client, problem: Callable[..., Problem]) -> None:
    """Fine-tuning: -weights reach all ranks, and zero iterations leave them as they are."""
    made = problem(settings="max_iter: 0")
    net = cosdask.Net(made.folder / "net.prototxt", phase="TRAIN", seed=3)
    weights = made.folder / "start.caffemodel"
    net.save(weights)
    result = cosdask.CaffeOnDask(client, config(made, weights=str(weights))).train()
    assert_close(result.net, net, 0.0)


def test_two_workers_train_lenet_as_one_process_and_as_one_double_batch(client: Client, tmp_path: Path) -> None:
    """Ten steps of LeNet; after more, rounding at ties of max pooling lets two correct runs drift apart."""
    rows, batch = 640, 32
    images, labels = digits(rows, size=28)
    order = np.arange(rows).reshape(2, rows // 2 // batch, batch).swapaxes(0, 1).ravel()
    two = _lenet(tmp_path / "two", images, labels, batch)
    one = _lenet(tmp_path / "one", images[order], labels[order], 2 * batch)
    settings = cosdask.Config(conf=str(two), model=str(tmp_path / "lenet.caffemodel"), clusterSize=2, progress="none")
    found = cosdask.CaffeOnDask(client, settings).train().net
    for solver, ranks in ((two, 2), (one, 1)):
        with cosdask.Solver(solver, ranks=ranks) as process:
            process.step(10)
            assert_close(found, process.net)


def _lenet(folder: Path, images: np.ndarray, labels: np.ndarray, batch: int) -> Path:
    """The ready LeNet over rows of its own."""
    folder.mkdir()
    write_lmdb(folder / "lmdb", images, labels)
    ready = Path(__file__).parents[2] / "prototxt" / "lenet_train_test.prototxt"
    net = read_net(ready)
    for layer in net.layer:
        if layer.type == "Data":
            layer.data_param.source, layer.data_param.batch_size = str(folder / "lmdb"), batch
    (folder / "net.prototxt").write_text(to_text(net))
    solver = folder / "solver.prototxt"
    settings = 'base_lr: 0.01 lr_policy: "inv" gamma: 0.0001 power: 0.75 momentum: 0.9 weight_decay: 0.0005'
    solver.write_text(
        f'net: "{folder / "net.prototxt"}" {settings} max_iter: 10 random_seed: 1 snapshot_prefix: "lenet"'
    )
    return solver
