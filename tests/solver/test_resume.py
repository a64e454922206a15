"""Invariant 4: a run that goes on from a snapshot is the run that was not interrupted, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosdask import Solver
from cosdask.data import write_lmdb
from cosdask.events import Event, Validation
from cosdask.solver import read_state

LAST = 9
#: random crops, mirrors and dropout; 23 rows, so that batches straddle epochs
NET = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { crop_size: 7 mirror: true mean_value: 100 scale: 0.01 }
  data_param { source: "FOLDER/lmdb" backend: LMDB batch_size: 3 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { crop_size: 7 mean_value: 100 scale: 0.01 }
  data_param { source: "FOLDER/lmdb" backend: LMDB batch_size: 2 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" dropout_param { dropout_ratio: 0.4 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVERS = {
    "one rank": ('type: "SGD" momentum: 0.9 weight_decay: 0.01 lr_policy: "step" stepsize: 4 gamma: 0.5', 1),
    "two ranks": ('type: "Adam" momentum: 0.9 iter_size: 2 lr_policy: "fixed" snapshot_format: HDF5', 2),
}


@dataclass
class Run:
    """An undisturbed run: its files, its weights after each iteration, and what it told."""

    path: Path
    ranks: int
    weights: dict[int, list[np.ndarray]] = field(default_factory=dict)
    validations: dict[int, float] = field(default_factory=dict)
    spare: Solver | None = None

    def listen(self, event: Event) -> None:
        if isinstance(event, Validation):
            self.validations[event.iteration] = event.outputs["loss"]

    def state(self, iteration: int) -> Path:
        return next(self.path.parent.glob(f"s_iter_{iteration}.solverstate*"))

    def open(self, **keywords: object) -> Solver:
        return Solver(self.path, ranks=self.ranks, **keywords)


def weights(solver: Solver) -> list[np.ndarray]:
    return [array for arrays in solver.net.to_blobs(solver.net.params).values() for array in arrays]


@pytest.fixture(scope="module", params=SOLVERS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, (text, ranks) = tmp_path_factory.mktemp("run"), SOLVERS[request.param]
    rng = np.random.default_rng(0)
    write_lmdb(folder / "lmdb", rng.integers(0, 256, (23, 3, 9, 9), dtype=np.uint8), rng.integers(0, 10, 23))
    (folder / "net.prototxt").write_text(NET.replace("FOLDER", str(folder)))
    (folder / "solver.prototxt").write_text(
        f'net: "{folder}/net.prototxt" base_lr: 0.01 random_seed: 5 snapshot: 1 snapshot_prefix: "{folder}/s" '
        f"test_interval: 2 test_iter: 3 {text}"
    )
    found = Run(folder / "solver.prototxt", ranks)
    with found.open(on_event=found.listen) as solver:
        for iteration in range(1, LAST + 1):
            solver.step(1)
            found.weights[iteration] = weights(solver)
    found.spare = found.open()
    yield found
    found.spare.close()


def assert_same(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for one, two in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, two)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stop=st.integers(1, LAST - 1), steps=st.integers(1, LAST))
def test_restoring_and_going_on_gives_the_same_bits(run: Run, stop: int, steps: int) -> None:
    """From any iteration, by any number of steps, with random crops, mirrors, dropout and running sums."""
    run.spare.restore(run.state(stop))
    assert run.spare.iter == stop
    end = min(stop + steps, LAST)
    run.spare.step(end - stop)
    assert_same(weights(run.spare), run.weights[end])


def test_a_new_process_goes_on_with_the_same_bits(run: Run) -> None:
    """A solver opened on a snapshot, and its validations too: those rows follow that the others left."""
    seen: dict[int, float] = {}

    def listen(event: Event) -> None:
        if isinstance(event, Validation):
            seen[event.iteration] = event.outputs["loss"]

    with run.open(snapshot=str(run.state(4)), on_event=listen) as solver:
        solver.step(LAST - 4)
        assert_same(weights(solver), run.weights[LAST])
    assert seen == {iteration: run.validations[iteration] for iteration in (4, 6, 8)}
    assert sorted(run.validations) == [0, 2, 4, 6, 8]


def test_the_snapshots_written_on_the_way_are_the_same(run: Run, tmp_path: Path) -> None:
    """History too, not only weights."""
    before = read_state(str(run.state(LAST)))
    run.spare.restore(run.state(3))
    run.spare.step(LAST - 3)
    after = read_state(str(run.state(LAST)))
    assert_same(after.history, before.history)
    assert (after.iteration, after.current_step) == (before.iteration, before.current_step)


def test_weights_given_beside_a_state_stand_in_for_its_model(run: Run) -> None:
    """As in CaffeOnSpark; of several files the later ones win. History and iteration are the state's."""
    earlier, later = (str(next(run.path.parent.glob(f"s_iter_{k}.caffemodel*"))) for k in (2, 6))
    with run.open(snapshot=str(run.state(4)), weights=f"{earlier}, {later}") as solver:
        assert solver.iter == 4
        for mine, other in zip(weights(solver), run.weights[6], strict=True):
            np.testing.assert_array_equal(mine, other)


def test_another_seed_is_another_run(run: Run) -> None:
    """The tests above would pass without any randomness; there is some."""
    model = str(next(run.path.parent.glob("s_iter_1.caffemodel*")))
    found = []
    for seed in (5, 6):
        with run.open(seed=seed, weights=model) as solver:
            solver.step(1)
            found.append(weights(solver))
    assert any(np.any(one != two) for one, two in zip(*found, strict=True))
