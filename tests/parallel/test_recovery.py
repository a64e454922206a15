"""Invariants 5 and 6 beyond kill -9 in a step: hung, preempted, damaged, spoiled; and what a new group begins from."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest_parallel import Train, assert_same, rank, ranks_alive
from distributed import Client
from problems import Problem, make_problem

import cosdask
from cosdask.errors import SolverError, StorageError
from cosdask.events import Progress, Restarted, RunStarted, Snapshot, ValidationStarted, Warned


def test_a_rank_that_hangs_is_ended_and_named(train: Train, whole: Any) -> None:
    """Invariant 6: a stopped process holds the group up for ``rank_silence`` seconds, not for ever."""
    result = train(Progress, lambda: rank(2).suspend(), rank_silence=8)
    (restart,) = train.of(Restarted)
    assert "rank 2 at 127.0.0.1" in restart.reason
    assert "no sign of life" in restart.reason
    assert_same(result.params, whole)


def test_a_preempted_rank_makes_the_group_write_a_checkpoint_first(train: Train, whole: Any) -> None:
    """SIGTERM: nothing done so far is lost, and the user's list of snapshots does not change."""
    result = train(Progress, lambda: rank(1).terminate())
    (restart,) = train.of(Restarted)
    assert "SIGTERM" in restart.reason
    assert restart.iteration > 0
    assert_same(result.params, whole)
    assert [event.iteration for event in result.snapshots] == [15, 30, 40]


@pytest.mark.long
def test_deaths_in_a_validation(train: Train, made: Problem, whole: Any) -> None:
    """All ranks at once, between two steps of the training."""
    frame = train(ValidationStarted, kill_all, number=2, validate=True)
    assert len(train.of(Restarted)) == 1
    assert frame["iteration"].tolist() == [10, 20, 30, 40]
    net = cosdask.Net(str(made.folder / "net.prototxt"), phase="TRAIN", weights=str(train.model))
    assert_same(net.to_blobs(net.params), whole)


def kill_all() -> bool:
    """End every rank without warning; returns whether there were any that have their job."""
    found = [process for process in ranks_alive() if process.name().startswith("cosdask-rank")]
    for process in found:
        process.kill()
    return bool(found)


@pytest.mark.long
def test_a_death_at_the_start_and_another_right_after(train: Train, whole: Any) -> None:
    """Ranks are lost before the group is together, and a rank of the next group as soon as it steps."""

    def kill_at_once() -> None:
        pause = threading.Event()
        while not kill_all():
            pause.wait(0.01)

    killer = threading.Thread(target=kill_at_once)
    killer.start()
    result = train(Progress, lambda: rank(0).kill())
    killer.join(60)
    assert len(train.of(Restarted)) == 2
    assert all("SIGKILL" in restart.reason for restart in train.of(Restarted))
    assert_same(result.params, whole)


def test_a_damaged_snapshot_is_passed_over(train: Train, whole: Any) -> None:
    """Invariant 7: a state counts only with the model it was written with; the older pair is used, with a warning."""

    def damage() -> None:
        with Path(train.of(Snapshot)[-1].model).open("r+b") as file:
            file.write(b"damaged")
        rank(1).kill()

    result = train(Snapshot, damage, number=2)
    (restart,) = train.of(Restarted)
    assert restart.iteration == 15
    (warning,) = train.of(Warned)
    assert "iteration 30 is left out" in warning.message
    assert_same(result.params, whole)


def test_automatic_checkpoints_bound_what_is_lost(client: Client, tmp_path: Path) -> None:
    """Where the solver never snapshots, a new group begins from the last checkpoint; a finished run leaves none."""
    made = make_problem(tmp_path / "problem", settings="max_iter: 400 display: 1 snapshot_after_train: false")
    train = Train(client, made, tmp_path / "small.caffemodel")
    whole = train(checkpoint_seconds=0).params
    assert not train.folder.read_snapshots()
    # each rank's first progress comes at once, the rest half a second later
    result = train(Progress, lambda: rank(2).kill(), number=5, checkpoint_seconds=0.05)
    (restart,) = train.of(Restarted)
    assert restart.iteration > 0
    assert_same(result.params, whole)
    assert not list((tmp_path / "small.run" / "checkpoints").iterdir())


def diverging(client: Client, folder: Path, settings: str) -> Train:
    """A training whose rate is so large that its losses soon are no numbers."""
    made = make_problem(folder / "problem", settings=settings)
    made.solver.write_text(made.solver.read_text().replace("base_lr: 0.05", "base_lr: 1e30"))
    return Train(client, made, folder / "small.caffemodel")


def test_a_loss_that_is_no_number_stops_with_its_cause(client: Client, tmp_path: Path) -> None:
    """It would come again: no new group, no spoiled snapshot; where the user wants it, it is only told."""
    train = diverging(client, tmp_path, "max_iter: 12 display: 1 snapshot: 6")
    with pytest.raises(SolverError, match=r"rank \d at 127.0.0.1.*the loss of iteration \d+ is (nan|inf).*base_lr"):
        train()
    assert not train.of(Restarted)
    assert not train.folder.read_snapshots()
    *_, end = train.folder.read_events()
    assert end["kind"] == "run_ended" and end["status"] == "failed" and "the loss of iteration" in end["message"]
    assert "the loss of iteration" in (tmp_path / "small.run" / "report.html").read_text()
    assert train(on_nan="warn").iterations == 12
    assert len([event for event in train.of(Warned) if "the loss of iteration" in event.message]) == 1


def test_a_loss_that_nothing_shows_is_looked_at_before_the_model_is_kept(client: Client, tmp_path: Path) -> None:
    """A run that ends before its next progress is due must not keep a spoiled model as done."""
    train = diverging(client, tmp_path, "max_iter: 3")
    with pytest.raises(SolverError, match=r"the loss of iteration \d+ is (nan|inf)"):
        train()
    assert not train.folder.read_snapshots() and not (tmp_path / "small.caffemodel").exists()


@pytest.mark.long
@pytest.mark.parametrize("batch_is_global", [False, True])
def test_fewer_workers_go_on_where_that_is_enough(batch_is_global: bool, tmp_path: Path) -> None:
    """With ``min_workers`` a worker that is scaled away does not end the run: the group leaves a checkpoint first.

    The user hears what fewer workers do to the batch; the prototxt's is divided anew where it is that of all.
    """
    made = make_problem(tmp_path / "problem", settings="max_iter: 600 display: 1")
    # threads that are free take the lost rank's task at once, which must not hurry the others
    with cosdask.LocalCluster(n_workers=2, threads_per_worker=2) as cluster, Client(cluster) as client:
        train = Train(client, made, tmp_path / "small.caffemodel")
        options = {"min_workers": 1, "worker_deadline": 5, "threads": 1, "batch_is_global": batch_is_global}
        result = train(Progress, lambda: cluster.scale(1), **options)
    (restart,) = train.of(Restarted)
    assert "going on with 1 workers in place of 2" in train.of(Warned)[0].message
    assert result.iterations == 600
    assert 0 < restart.iteration < 600
    rows = 4 if batch_is_global else 8
    assert train.folder.read_run()["groups"] == [[0, 2, rows], [restart.iteration, 1, 8]]
    assert [event.effective_batch for event in train.of(RunStarted)] == [2 * rows, 8]


@pytest.mark.long
def test_a_full_disk_leaves_the_last_good_pair(made: Problem, tmp_path: Path, client: Client, whole: Any) -> None:
    """Snapshots fail, the run ends after some tries with the cause; with room again, ``resume`` makes it whole."""
    small = tmp_path / "small_disk"
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        train = Train(client, made, small / "small.caffemodel")
        with pytest.raises(StorageError, match="No space left"):
            train(Snapshot, lambda: fill(small / "filler"))
        assert [entry["iteration"] for entry in train.folder.read_snapshots()] == [15]
        (small / "filler").unlink()
        assert_same(train(resume=True).params, whole)
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def fill(path: Path) -> None:
    """Take all the room that is left on a disk."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
