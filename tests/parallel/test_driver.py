"""What the client sees of a run: events, validations, the run folder, errors, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest_parallel import Listener, config, rank_processes
from distributed import Client
from problems import DROPOUT, Problem, digits

import cosdask
from cosdask.data import write_lmdb
from cosdask.errors import ConfigError, CosdaskError, DataError, DeadlineError, GroupError, StorageError
from cosdask.events import Progress, RunEnded, RunStarted, Validation
from cosdask.parallel import driver, generation
from cosdask.storage import RunFolder


def test_validation_has_a_row_each_interval_and_one_at_the_end(client: Client, problem: Callable[..., Problem]) -> None:
    """Before iterations 5 and 10 of 12, and after the last; metrics of the shards are those of one process."""
    made = problem(settings="max_iter: 12 test_interval: 5 test_iter: 4 test_initialization: false", test_rows=50)
    listener = Listener()
    frame = cosdask.CaffeOnDask(client, config(made, clusterSize=None), consumers=[listener]).train_with_validation()
    assert list(frame.columns) == ["iteration", "accuracy", "loss"]
    assert frame["iteration"].tolist() == [5, 10, 12]
    assert {str(kind) for kind in frame.dtypes} == {"int64", "float64"}
    with cosdask.Solver(made.solver, ranks=3) as solver:
        expected = []
        for iterations in (5, 5, 2):
            solver.step(iterations) if not solver.iter else _step_without_tests(solver, iterations)
            expected.append(solver.test())
    wanted = pd.DataFrame(expected)
    np.testing.assert_allclose(frame[["accuracy", "loss"]], wanted[["accuracy", "loss"]], rtol=1e-4, atol=1e-5)
    assert [event.rows for event in listener.of(Validation)] == [40, 40, 40]
    on_disk = RunFolder(made.folder / "out" / "small.run").read_validation()
    pd.testing.assert_frame_equal(on_disk, frame)


def _step_without_tests(solver: cosdask.Solver, iterations: int) -> None:
    """Solver.step tests by itself where a test is due; here the test asks for each."""
    for _ in range(iterations):
        solver.engine.step()


def test_train_tells_and_keeps_what_it_does(client: Client, problem: Callable[..., Problem]) -> None:
    """Start, progress at every display and the end reach the client and the run folder; the result carries them."""
    made = problem(rows=50, settings="max_iter: 9 display: 4 snapshot: 5")
    listener = Listener()
    result = cosdask.CaffeOnDask(client, config(made, interface="lo"), consumers=[listener]).train()
    (started,) = listener.of(RunStarted)
    assert (started.workers, started.batch_per_device, started.effective_batch, started.rows) == (2, 8, 16, 50)
    assert started.epochs == pytest.approx(9 * 16 / 50)
    # the parts of a rank's start, which a benchmark adds up
    assert list(started.starting) == ["imports", "group", "net"] and min(started.starting.values()) >= 0
    assert started.starting["net"] > 0
    assert {0, 4, 8} <= {event.iteration for event in listener.of(Progress) if event.rank == 0}
    assert {0, 4, 8} <= set(result.history["iteration"])
    assert result.history["loss"].notna().all()
    assert (result.history["gradient_norm"] > 0).all()
    shown = [event for event in listener.of(Progress) if event.iteration == 8]
    assert np.mean([event.rank_loss for event in shown]) == pytest.approx(shown[0].loss, rel=1e-5) or len(shown) < 2
    assert "done" in (made.folder / "out" / "small.run" / "report.html").read_text()
    assert [event.status for event in listener.of(RunEnded)] == ["done"]
    assert (result.iterations, result.status) == (9, "done")
    assert [Path(event.state).name for event in result.snapshots] == [
        "small_iter_5.solverstate",
        "small_iter_9.solverstate",
    ]
    folder = RunFolder(result.run_folder)
    run = folder.read_run()
    assert run["seed"] == 5
    assert len(run["ranks"]) == 2
    assert [event["kind"] for event in folder.read_events()][-1] == "run_ended"
    assert [entry["iteration"] for entry in folder.read_snapshots()] == [5, 9]
    blobs = result.params
    assert blobs["conv1"][0].shape == (6, 1, 3, 3)
    json.dumps(run)


def test_a_training_that_is_refused_leaves_no_process(client: Client, problem: Callable[..., Problem]) -> None:
    """The ranks' processes load while nets and rows are looked at; where those are wrong, they end at once."""
    made = problem(rows=20)
    shutil.rmtree(made.folder / "train_lmdb")
    with pytest.raises(CosdaskError, match="train_lmdb"):
        cosdask.CaffeOnDask(client, config(made)).train()
    assert not psutil.wait_procs(rank_processes(), timeout=5)[1]


def test_a_run_does_not_remove_what_it_shall_begin_from(client: Client, problem: Callable[..., Problem]) -> None:
    """Automatic checkpoints go when a new run of the same model begins; one that is named is refused, and stays."""
    made = problem(rows=20)
    kept = made.folder / "out" / "small.run" / "checkpoints"
    kept.mkdir(parents=True)
    names = tuple(str(kept / f"auto_iter_2.{ending}") for ending in ("caffemodel", "solverstate"))
    with cosdask.Solver(made.solver) as solver:
        solver.step(2)
        solver.engine.snapshot(names)
    model, state = names
    # the state lies elsewhere and names its model where that is
    moved = shutil.copy(state, made.folder / "moved.solverstate")
    for begin in ({"snapshot": state}, {"weights": model}, {"snapshot": str(moved)}):
        with pytest.raises(StorageError, match=r"auto_iter_2.*--resume"):
            cosdask.CaffeOnDask(client, config(made, **begin)).train()
    assert Path(model).exists() and Path(state).exists()


def test_tasks_grow_with_workers_not_iterations(client: Client, problem: Callable[..., Problem]) -> None:
    """Invariants 8 and 9: ten times the iterations need no more tasks, and a worker sends few messages a second."""
    made = problem(settings="max_iter: 20 display: 1")
    text = made.solver.read_text()

    def tasks(iterations: int) -> int:
        made.solver.write_text(text.replace("max_iter: 20", f"max_iter: {iterations}"))
        before = set(client.run_on_scheduler(_tasks_seen))
        result = cosdask.CaffeOnDask(client, config(made)).train()
        run = RunFolder(result.run_folder).read_run()
        assert len(client.get_events(f"cosdask-{run['run_id']}")) <= 3 * (3 + 2 * result.seconds)
        # not by their number: the scheduler's log drops its oldest entries
        return len(set(client.run_on_scheduler(_tasks_seen)) - before)

    assert 3 < tasks(3) == tasks(30) <= 12


def _tasks_seen(dask_scheduler: Any) -> list[Any]:
    return [entry[0] for entry in dask_scheduler.transition_log if entry[1] == "released"]


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """A shell's background jobs, which tests may run in, ignore Ctrl-C; this process does not while it lasts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_leaves_a_snapshot_that_resumes_bit_for_bit(client: Client, problem: Callable[..., Problem]) -> None:
    """Invariant 4: interrupted and taken up again, a run ends with the weights of the run that was not interrupted.

    It is taken up by the command that began it: the weights that it began from are named again, and not loaded.
    """
    made = problem(settings="max_iter: 400 display: 1", augmented=True, dropout=DROPOUT)
    first = str(made.folder / "first.caffemodel")
    cosdask.Net(made.folder / "net.prototxt", phase="TRAIN", seed=9).save(first)
    whole = cosdask.CaffeOnDask(client, config(made, weights=first)).train().params
    interrupt = Listener(Progress, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match=r"snapshot of iteration \d+"):
        cosdask.CaffeOnDask(client, config(made, overwrite=True, weights=first), consumers=[interrupt]).train()
    snapshots = RunFolder(made.folder / "out" / "small.run").read_snapshots()
    assert 0 < snapshots[-1]["iteration"] < 400
    result = cosdask.CaffeOnDask(client, config(made, resume=True, weights=first)).train()
    assert result.iterations == 400
    for name, blobs in whole.items():
        for mine, other in zip(result.params[name], blobs, strict=True):
            np.testing.assert_array_equal(mine, other)


def test_an_error_in_a_rank_reaches_the_client(client: Client, problem: Callable[..., Problem]) -> None:
    """A row that cannot be decoded ends the run at once, and names row, rank and host."""
    made = problem(rows=4)
    images, labels = digits(40)
    rows = [_png(image) for image in images]
    rows[25] = rows[25][:40]
    write_lmdb(made.folder / "bad_lmdb", rows, labels)
    text = (made.folder / "net.prototxt").read_text()
    (made.folder / "net.prototxt").write_text(text.replace("train_lmdb", "bad_lmdb"))
    with pytest.raises(DataError, match=r"rank 1 at 127.0.0.1.*00000025"):
        cosdask.CaffeOnDask(client, config(made)).train()
    *_, end = RunFolder(made.folder / "out" / "small.run").read_events()
    assert end["status"] == "failed" and "00000025" in end["message"]


def _png(image: np.ndarray) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", image[0])[1])


def trained_beside_another(client: Client, made: Problem) -> tuple[cosdask.TrainResult, str]:
    """The result of a training, and the error of another that was started on its workers at its first step."""
    refused: list[BaseException] = []

    def train_too() -> None:
        with Client(client.scheduler.address, set_as_default=False) as apart, pytest.raises(GroupError) as error:
            cosdask.CaffeOnDask(apart, config(made, model=str(made.folder / "other.caffemodel"))).train()
        refused.append(error.value)

    thread = threading.Thread(target=train_too)
    result = cosdask.CaffeOnDask(client, config(made), consumers=[Listener(Progress, thread.start)]).train()
    thread.join(60)
    return result, str(refused[0])


def test_a_worker_trains_once_at_a_time(client: Client, problem: Callable[..., Problem]) -> None:
    """A second run on the same workers is refused at once and the first goes on."""
    result, refused = trained_beside_another(client, problem(settings="max_iter: 300 display: 1"))
    assert result.status == "done"
    assert "is training already" in refused


@pytest.mark.long
def test_a_run_that_began_while_another_prepared_does_not_wait_behind_it(
    client: Client, problem: Callable[..., Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 6: both found the workers free; whose ranks come second hears of the other run."""
    for name, seconds in {"BEGINNING": 2.0, "TOUCH": 1.0, "ENDING": 1.0}.items():
        monkeypatch.setattr(generation, name, seconds)
    monkeypatch.setattr(driver, "check_free", lambda *_, **__: None)
    result, refused = trained_beside_another(client, problem(settings="max_iter: 4000 display: 1"))
    assert result.params
    assert "is training already" in refused


def test_too_few_workers_end_the_wait_with_the_remedy(client: Client, problem: Callable[..., Problem]) -> None:
    """Invariant 6: nothing waits past its deadline."""
    made = problem()
    with pytest.raises(DeadlineError, match=r"3 worker\(s\) of 5 arrived within 1 s.*-clusterSize"):
        cosdask.CaffeOnDask(client, config(made, clusterSize=5, worker_deadline=1)).train()
    with pytest.raises(GroupError, match=r"--interface ib7: .* has no such address; it has lo \(127.0.0.1\)"):
        cosdask.CaffeOnDask(client, config(made, interface="ib7")).train()


def test_resume_without_a_snapshot_says_so(client: Client, problem: Callable[..., Problem]) -> None:
    """Nothing is trained from the start by mistake."""
    with pytest.raises(ConfigError, match="no whole snapshot"):
        cosdask.CaffeOnDask(client, config(problem(), resume=True)).train()


def test_an_asynchronous_client_gets_awaitables(cluster: cosdask.LocalCluster, problem: Callable[..., Problem]) -> None:
    """The verbs do not block the event loop of an asynchronous client."""
    made = problem(settings="max_iter: 3 test_iter: 2 test_interval: 2")

    async def run() -> tuple[pd.DataFrame, dict[str, Any]]:
        async with Client(cluster.scheduler_address, asynchronous=True) as connected:
            cos = cosdask.CaffeOnDask(connected, config(made))
            return await cos.train_with_validation(), await cos.test()

    frame, outputs = asyncio.run(run())
    assert frame["iteration"].tolist() == [2, 3]
    assert set(outputs) == {"accuracy", "loss"}
