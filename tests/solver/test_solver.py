"""``cosdask.Solver``: which nets it trains and tests, what it tells, what it writes, and how it stays in hand."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from small_training import NET

from cosdask import Solver
from cosdask.errors import CosdaskError, NetError, SolverError, WeightsError
from cosdask.events import Event, Progress, Snapshot, Validation
from cosdask.proto import caffe_pb2, read_net, read_solver
from cosdask.solver import read_state

TESTED = NET.replace('top: "y" hdf5', 'top: "y" include { phase: TRAIN } hdf5').replace(
    'layer { name: "ip1"',
    'layer { name: "data" type: "HDF5Data" top: "x" top: "y" include { phase: TEST }\n'
    '  hdf5_data_param { source: "rows.txt" batch_size: 5 } }\nlayer { name: "ip1"',
)


def blobs(solver: Solver) -> dict[str, list[np.ndarray]]:
    return solver.net.to_blobs(solver.net.params)


def losses(solver: Solver, rows, first: int, count: int) -> float:
    """The mean loss of rows that wrap round, by ``net.forward``."""
    take = np.arange(first, first + count) % len(rows[0])
    return float(solver.net.forward({"x": rows[0][take], "y": rows[1][take]})["loss"])


def test_a_solver_says_where_it_is(make_solver) -> None:
    """iter, lr and loss; a loss before the first step is an error."""
    solver = make_solver("base_lr: 0.5")
    assert (solver.iter, solver.lr) == (0, 0.5)
    with pytest.raises(SolverError, match="no iteration has been made yet"):
        _ = solver.loss
    solver.step(3)
    assert solver.iter == 3
    assert isinstance(solver.loss, float)


def test_the_loss_is_that_of_the_weights_before_the_step(make_solver, rows) -> None:
    """solver.loss is the net's loss on the batch of the last iteration, not smoothed."""
    solver = make_solver("base_lr: 0.1 average_loss: 10")
    solver.step(2)
    wanted = losses(solver, rows, 8, 4)
    solver.step(1)
    assert solver.loss == pytest.approx(wanted, rel=1e-5)


def test_the_learning_rate_is_that_of_the_next_iteration(make_solver) -> None:
    """lr follows the policy."""
    solver = make_solver("base_lr: 0.5 gamma: 0.5 stepsize: 2")
    solver.param.lr_policy = "step"
    found = [solver.lr]
    for _ in range(4):
        solver.step(1)
        found.append(solver.lr)
    assert found == [0.5, 0.5, 0.25, 0.25, 0.125]


def test_params_held_by_a_user_stay_when_training_goes_on(make_solver) -> None:
    """A step gives its buffers away: what users hold is a copy, also around snapshots."""
    solver = make_solver("base_lr: 0.1")
    net = solver.net
    solver.step(1)
    held = net.params
    before = net.to_blobs(held)["ip1"][0]
    solver.snapshot()
    solver.step(2)
    np.testing.assert_array_equal(net.to_blobs(held)["ip1"][0], before)
    assert np.any(blobs(solver)["ip1"][0] != before)
    assert net.forward({"x": np.ones((1, 5))}, blobs=["ip2"])["ip2"].shape == (1, 2)


def test_a_copy_of_the_net_is_left_alone_by_training(make_solver) -> None:
    """net.copy() is a plain net with the weights of now."""
    solver = make_solver("base_lr: 0.1")
    solver.step(1)
    kept = solver.net.copy()
    before = blobs(solver)["ip1"][0]
    solver.step(1)
    np.testing.assert_array_equal(kept.to_blobs(kept.params)["ip1"][0], before)


def test_weights_read_inside_of_a_users_jit_are_values(make_solver) -> None:
    """What is kept while tracing serves calls outside of it."""
    net = make_solver("base_lr: 0.1").net
    wanted = jax.jit(lambda x: net.apply(net.params, {"x": x}, blobs=["ip2"])[0]["ip2"])(np.ones((1, 5), np.float32))
    np.testing.assert_allclose(net.forward({"x": np.ones((1, 5))}, blobs=["ip2"])["ip2"], wanted, rtol=1e-5)


@pytest.mark.parametrize("how", ["params", "load"])
def test_weights_set_by_a_user_are_trained_on(make_solver, how: str) -> None:
    """As in pycaffe: net surgery and loading weights into solver.net change what is trained."""
    solver, other = make_solver("base_lr: 0.1"), make_solver("base_lr: 0.1", seed=9)
    solver.step(1)
    other.net.save("other.caffemodel")
    if how == "params":
        solver.net.params = solver.net.from_blobs(blobs(other))
    else:
        solver.net.load("other.caffemodel")
    wanted = blobs(other)["ip1"][0]
    np.testing.assert_array_equal(blobs(solver)["ip1"][0], wanted)
    solver.step(1)
    change = np.abs(blobs(solver)["ip1"][0] - wanted).max()
    assert 0 < change < 0.2


def test_events_tell_progress_validation_and_snapshots(make_solver) -> None:
    """What falls due when: a validation before the step, progress after it, a snapshot last."""
    events: list[Event] = []
    settings = "base_lr: 0.1 display: 2 snapshot: 3 test_interval: 2 test_iter: 2 max_iter: 5"
    solver = make_solver(settings, net=TESTED, on_event=events.append)
    solver.solve()
    told = [(event.kind, event.iteration) for event in events if isinstance(event, Progress | Validation | Snapshot)]
    assert told == [
        ("validation", 0),
        ("progress", 0),
        ("validation", 2),
        ("progress", 2),
        ("snapshot", 3),
        ("validation", 4),
        ("progress", 4),
        ("snapshot", 5),
    ]
    assert next(event.rows for event in events if isinstance(event, Validation)) == 10


def test_solve_ends_as_caffe_does(make_solver) -> None:
    """A last snapshot unless it has just been written, and a last test where one is due."""
    events: list[Event] = []
    settings = "base_lr: 0.1 snapshot: 2 test_interval: 2 test_iter: 1 max_iter: 4 test_initialization: false"
    solver = make_solver(settings, net=TESTED, on_event=events.append)
    solver.solve()
    assert [event.iteration for event in events if isinstance(event, Snapshot)] == [2, 4]
    assert [event.iteration for event in events if isinstance(event, Validation)] == [2, 4]
    quiet = make_solver("base_lr: 0.1 max_iter: 1 snapshot_after_train: false", on_event=events.append)
    count = len(events)
    quiet.solve()
    assert len(events) == count


def test_tests_go_on_where_the_last_one_stopped(make_solver, rows) -> None:
    """test_iter x batch rows each time, wrapping round; every row of a test counts the same."""
    solver = make_solver("base_lr: 0.1 test_interval: 100 test_iter: 3", net=TESTED)
    for first in (0, 15, 30):
        found = solver.test(0)
        assert found == {"loss": pytest.approx(losses(solver, rows, first, 15), rel=1e-5)}
    with pytest.raises(SolverError, match="there is no test net 1; the solver has 1"):
        solver.test(1)


def test_test_nets_use_the_trained_weights(make_solver) -> None:
    """Shared by layer name."""
    solver = make_solver("base_lr: 0.1 test_interval: 100 test_iter: 1", net=TESTED)
    solver.step(2)
    (net,) = solver.test_nets
    np.testing.assert_array_equal(net.to_blobs(net.params)["ip1"][0], blobs(solver)["ip1"][0])


# -- snapshots -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "suffix"), [("BINARYPROTO", ""), ("HDF5", ".h5")])
def test_a_snapshot_names_its_model(make_solver, form: str, suffix: str) -> None:
    """Caffe's file names; the state names the model."""
    solver = make_solver(f"base_lr: 0.1 snapshot_format: {form}")
    solver.step(2)
    model, state = solver.snapshot()
    assert (model, state) == (f"s_iter_2.caffemodel{suffix}", f"s_iter_2.solverstate{suffix}")
    saved = read_state(state)
    assert (saved.iteration, saved.learned_net, len(saved.history)) == (2, model, 4)


def test_a_state_of_another_solver_or_net_is_refused(make_solver) -> None:
    """Other slots, other shapes, another kind of file: the file is named."""
    make_solver("base_lr: 0.1").snapshot()
    with pytest.raises(WeightsError, match=r"s_iter_0\.solverstate: holds 4 history blob\(s\), but .* have 8"):
        make_solver('base_lr: 0.1 type: "Adam"', snapshot="s_iter_0.solverstate")
    wider = NET.replace("num_output: 3", "num_output: 4")
    with pytest.raises(WeightsError, match=r'layer "ip1", weight 0: shape \(3, 5\) in the file'):
        make_solver("base_lr: 0.1", net=wider, snapshot="s_iter_0.solverstate")
    with pytest.raises(CosdaskError, match=r"s_iter_0\.caffemodel"):
        make_solver("base_lr: 0.1", snapshot="s_iter_0.caffemodel")


def test_a_state_without_its_model_is_refused(make_solver) -> None:
    """The missing model is named."""
    make_solver("base_lr: 0.1").snapshot()
    Path("s_iter_0.caffemodel").unlink()
    with pytest.raises(CosdaskError, match=r"s_iter_0\.caffemodel"):
        make_solver("base_lr: 0.1", snapshot="s_iter_0.solverstate")


def test_restoring_forgets_what_was_told_of_before(make_solver) -> None:
    """The smoothed loss starts anew and there is no last loss."""
    solver = make_solver("base_lr: 0.1 average_loss: 5")
    solver.snapshot()
    solver.step(3)
    solver.restore("s_iter_0.solverstate")
    with pytest.raises(SolverError, match="no iteration has been made yet"):
        _ = solver.loss
    solver.step(1)
    assert solver.engine.smoothed_loss == pytest.approx(solver.loss)


# -- which nets ------------------------------------------------------------------------------------------------------


def test_paths_count_from_the_working_directory_then_from_the_solvers_folder(
    make_solver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """net, weights and data files are found beside the solver from anywhere."""
    make_solver("base_lr: 0.1").net.save("start.caffemodel")
    solver = Path("solver.prototxt")
    solver.write_text(solver.read_text() + ' weights: "start.caffemodel"')
    wanted = blobs(Solver(solver))["ip1"][0]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with Solver(tmp_path / "solver.prototxt", seed=77) as found:
        np.testing.assert_array_equal(blobs(found)["ip1"][0], wanted)


def test_a_solver_message_with_an_inline_net_trains(make_solver) -> None:
    """SolverParameter in place of a path, net_param in place of net."""
    make_solver("base_lr: 0.1")
    param = read_solver("solver.prototxt")
    param.net_param.CopyFrom(read_net("net.prototxt"))
    param.ClearField("net")
    with Solver(param) as solver:
        solver.step(1)
        assert solver.iter == 1


STAGED = NET + (
    'layer { name: "extra" type: "Silence" bottom: "h" include { stage: "more" min_level: 2 } }\n'
    'state { level: 3 stage: "more" }'
)


@pytest.mark.parametrize(
    ("settings", "there"),
    [
        ("", True),
        ("train_state { level: 2 }", True),
        ("train_state { level: 1 }", False),
        ('train_state { stage: "other" }', True),
    ],
)
def test_the_solvers_state_is_merged_into_the_nets(make_solver, settings: str, there: bool) -> None:
    """As in Caffe: a level that the solver states wins, else the net's own holds; stages add up."""
    solver = make_solver(f"base_lr: 0.1 {settings}", net=STAGED)
    assert ("extra" in [layer.name for layer in solver.net.layers]) is there


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "state exactly one of net, net_param, train_net, train_net_param; none of them given"),
        ({"net": "a", "train_net": "b"}, "net and train_net given"),
        ({"train_net": "net.prototxt", "test_net": ["a"]}, r"test_iter is given 0 time\(s\) for 1 test net"),
        ({"train_net": "net.prototxt", "test_iter": [1]}, r"test_iter is given 1 time\(s\) for 0 test net"),
        ({"net": "net.prototxt", "test_iter": [1], "test_state": [{}, {}]}, r"test_state is given 2 time\(s\)"),
    ],
)
def test_solvers_that_name_the_wrong_nets_are_refused(make_solver, fields: dict, message: str) -> None:
    """None or several to train; as many tests as test_iter says."""
    make_solver("base_lr: 0.1")
    with pytest.raises(SolverError, match=message):
        _ = Solver(caffe_pb2.SolverParameter(base_lr=0.1, lr_policy="fixed", **fields)).test_nets


def test_errors_in_the_net_name_its_file_and_line(make_solver) -> None:
    """Also through the solver."""
    with pytest.raises(NetError, match=r"net\.prototxt:6: .*TanHH"):
        make_solver("base_lr: 0.1", net=NET.replace('"TanH"', '"TanHH"'))
