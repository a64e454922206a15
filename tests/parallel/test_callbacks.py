"""Users' own functions along a run: what they hear, how they end it, and what becomes of their errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest_parallel import config
from distributed import Client
from problems import Problem

import cosdask
from cosdask.events import Event, Progress, Snapshot, Validation
from cosdask.storage import RunFolder
from cosdask.view import TensorBoard


def test_callbacks_hear_of_everything_and_their_errors_reach_the_user(
    client: Client, problem: Callable[..., Problem]
) -> None:
    """An error in a user's function is not swallowed: the run stops, leaves a snapshot and raises it."""
    made = problem(settings="max_iter: 100000 display: 1 snapshot: 4")
    heard: list[Event] = []

    def fail(event: Event) -> None:
        heard.append(event)
        raise LookupError("the user's own")

    callbacks = cosdask.Callbacks(on_step=heard.append, on_snapshot=fail)
    with pytest.raises(LookupError, match="the user's own"):
        cosdask.CaffeOnDask(client, config(made), callbacks=[callbacks]).train()
    assert isinstance(heard[0], Progress)
    assert any(isinstance(event, Snapshot) for event in heard)
    assert RunFolder(made.folder / "out" / "small.run").read_snapshots()[-1]["iteration"] < 100000


def test_early_stop_saves_the_model_and_curves_go_to_tensorboard(
    client: Client, problem: Callable[..., Problem]
) -> None:
    """The run ends as if max_iter were reached: last validation, snapshot, model; all ranks after the same step."""
    made = problem(settings="max_iter: 100000 display: 5 test_interval: 5 test_iter: 2")
    stop = cosdask.EarlyStop("loss", patience=2, least=1e9)
    cos = cosdask.CaffeOnDask(client, config(made, tensorboard=True), callbacks=[stop])
    frame = cos.train_with_validation()
    ended = int(frame["iteration"].iloc[-1])
    assert 10 <= ended < 100000
    assert RunFolder(made.folder / "out" / "small.run").read_snapshots()[-1]["iteration"] == ended
    cosdask.Net(str(made.folder / "net.prototxt"), phase="TRAIN", weights=made.model)
    assert list(Path(made.folder / "out" / "small.run" / "tensorboard").glob("events.out.tfevents.*"))


def test_early_stop_names_the_outputs_there_are() -> None:
    """A misspelled output is an error, not a run that never stops."""
    with pytest.raises(cosdask.errors.ConfigError, match='Did you mean "accuracy"'):
        cosdask.EarlyStop("acuracy").handle(Validation(iteration=1, outputs={"accuracy": 0.5}))


def test_early_stop_counts_a_validation_once_and_each_run_by_itself() -> None:
    """Invariant 5: a group that begins again makes validations again; they are no news."""
    stop = cosdask.EarlyStop("loss", patience=2)

    def see(iteration: int, loss: float) -> None:
        stop.handle(Validation(iteration=iteration, outputs={"loss": loss}))

    for iteration, loss in ((1000, 0.5), (1500, 0.6), (1000, 0.5), (1500, 0.6)):
        see(iteration, loss)
    with pytest.raises(cosdask.StopTraining):
        see(2000, 0.7)
    stop.close()
    see(500, 0.9)
    see(1000, 0.95)


def test_tensorboard_writes_where_it_can(tmp_path: Path) -> None:
    """Its package would make a local folder of a URL that it does not know."""
    with pytest.raises(cosdask.errors.ConfigError, match=r"hdfs://host/m\.run.*local folders, s3:// and gs:// only"):
        TensorBoard("hdfs://host/m.run/tensorboard")
    TensorBoard(f"file://{tmp_path}/curves").close()
    assert list((tmp_path / "curves").iterdir())
