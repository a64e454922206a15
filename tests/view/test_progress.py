"""The progress bar and the choice between views."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import pytest

from cosdask.config import PROGRESS_MODES
from cosdask.errors import ConfigError
from cosdask.events import Event, Progress, Restarted, RunEnded, RunStarted, Snapshot, Validation, Warned, from_dict
from cosdask.view import JsonLines, LineLog, ProgressBar, default_consumers

START = RunStarted(
    workers=2,
    devices_per_worker=1,
    batch_per_device=64,
    effective_batch=128,
    max_iter=200,
    rows=4000,
    epochs=6.4,
    base_lr=0.01,
    seed=7,
    net="LeNet",
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(*events: Event) -> str:
    stream = Terminal()
    bar = ProgressBar(stream)
    for event in events:
        bar.handle(event)
    bar.close()
    return stream.getvalue()


def test_the_bar_shows_iteration_loss_accuracy_and_speed() -> None:
    validation = Validation(
        iteration=100, outputs={"accuracy": 0.974, "loss": 0.1}, loss_weights={"loss": 1.0}, rows=1000
    )
    shown = show(
        START,
        validation,
        Progress(rank=0, iteration=149, loss=0.2131, lr=0.01, rows_per_second=5321.0),
        RunEnded(iteration=200, status="done"),
    )
    last = shown.split("\r")[-1]
    assert "LeNet" in last and "200/200" in last
    assert "loss=0.2131" in last and "accuracy=0.974" in last and "rows/s=5321" in last
    assert "iteration 100: accuracy = 0.974, loss = 0.1 (1000 rows)" in shown
    assert "effective batch 128" in shown


def test_the_bar_stays_where_a_failed_run_ended() -> None:
    shown = show(
        START,
        Progress(rank=0, iteration=49, loss=math.nan, lr=0.01),
        RunEnded(iteration=50, status="failed", message="loss is nan at iteration 49"),
    )
    assert "50/200" in shown and "200/200" not in shown
    assert shown.rstrip().endswith("loss is nan at iteration 49")


def test_the_bar_goes_back_to_the_snapshot_with_a_new_group() -> None:
    shown = show(
        START,
        Progress(rank=0, iteration=149, loss=1.0, lr=0.01),
        Restarted(generation=1, reason="gone", iteration=100),
        Progress(rank=0, iteration=109, loss=1.0, lr=0.01),
        RunEnded(iteration=110, status="stopped"),
    )
    assert "in a new group (gone)" in shown
    assert "110/200" in shown.split("\r")[-1]


def test_a_run_that_goes_on_starts_at_its_iteration() -> None:
    shown = show(dataclasses.replace(START, start_iteration=150))
    assert "150/200" in shown and "going on from iteration 150" in shown


def test_snapshots_and_warnings_are_written_above_the_bar() -> None:
    shown = show(START, Snapshot(iteration=100, model="m", state="s.solverstate"), Warned(message="row 7 was skipped"))
    assert "iteration 100: snapshot s.solverstate" in shown and "warning: row 7 was skipped" in shown


def test_json_lines_give_every_event_back() -> None:
    stream = io.StringIO()
    events = [START, Progress(rank=1, iteration=1, loss=0.5, lr=0.1), Warned(message="a\nb")]
    view = JsonLines(stream)
    for event in events:
        view.handle(event)
    view.close()
    assert [from_dict(json.loads(line)) for line in stream.getvalue().splitlines()] == events


def test_auto_is_a_bar_in_a_terminal_and_lines_elsewhere() -> None:
    assert isinstance(default_consumers("auto", Terminal())[0], ProgressBar)
    assert isinstance(default_consumers("auto", io.StringIO())[0], LineLog)


def test_lines_in_a_notebook_are_ordinary_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notebooks paint standard error as a failure; scripts keep it, so that it does not mix with results."""
    for there, out in ((True, True), (False, False)):
        monkeypatch.setattr("cosdask.view.progress.in_notebook", lambda there=there: there)
        default_consumers("lines")[0].handle(Warned(message="mind"))
        told = capsys.readouterr()
        assert ("mind" in told.out, "mind" in told.err) == (out, not out)


def test_modes_by_name() -> None:
    stream = Terminal()
    assert isinstance(default_consumers("lines", stream)[0], LineLog)
    assert isinstance(default_consumers("json", stream)[0], JsonLines)
    assert default_consumers("none", stream) == []
    with pytest.raises(ConfigError, match="lines"):
        default_consumers("line", stream)


@pytest.mark.parametrize("mode", PROGRESS_MODES)
def test_every_word_that_the_option_allows_is_known(mode: str) -> None:
    default_consumers(mode, io.StringIO())
