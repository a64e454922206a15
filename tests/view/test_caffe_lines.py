"""Log lines: worded as Caffe words them, so that its users' parsers go on working."""

from __future__ import annotations

import io
import re
from datetime import datetime

import pytest

from cosdask.events import (
    Event,
    Progress,
    Restarted,
    RunEnded,
    RunStarted,
    Snapshot,
    UnknownEvent,
    Validation,
    ValidationStarted,
    Warned,
)
from cosdask.view import LineLog, caffe_lines, describe_run

START = datetime(2024, 11, 23, 4, 32, 49, 123456).timestamp()


def started(**changes: object) -> RunStarted:
    values: dict[str, object] = {
        "time": START,
        "workers": 2,
        "devices_per_worker": 1,
        "batch_per_device": 64,
        "effective_batch": 128,
        "max_iter": 200,
        "rows": 4000,
        "epochs": 6.4,
        "base_lr": 0.01,
        "seed": 7,
        "net": "LeNet",
        "lr_policy": "inv",
        "display": 100,
    }
    return RunStarted(**{**values, **changes})  # type: ignore[arg-type]


def a_run() -> list[Event]:
    """Two displays, two validations (one with an output of three numbers), a snapshot, the end."""
    outputs = {"accuracy": 0.5, "per_class": [0.25, 0.5, 1.0], "loss": 0.75}
    return [
        started(),
        ValidationStarted(time=START + 1, iteration=0),
        Validation(time=START + 2, iteration=0, outputs=outputs, loss_weights={"loss": 1.0}, rows=100),
        Progress(
            time=START + 3, rank=0, iteration=0, loss=2.5, lr=0.01, outputs={"loss": 2.5}, loss_weights={"loss": 1.0}
        ),
        Progress(time=START + 4, rank=0, iteration=50, loss=1.5, lr=0.01),
        ValidationStarted(time=START + 5, iteration=100),
        Validation(time=START + 6, iteration=100, outputs={**outputs, "accuracy": 0.974}, rows=100),
        Progress(
            time=START + 7.5,
            rank=0,
            iteration=100,
            loss=0.2,
            smoothed_loss=0.213,
            lr=9.92565e-05,
            outputs={"loss": 0.2},
            loss_weights={"loss": 2.0},
        ),
        Snapshot(time=START + 8, iteration=200, model="l_iter_200.caffemodel", state="l_iter_200.solverstate"),
        RunEnded(time=START + 9, iteration=200, status="done"),
    ]


def log_of(events: list[Event]) -> list[str]:
    stream = io.StringIO()
    log = LineLog(stream)
    for event in events:
        log.handle(event)
    log.close()
    return stream.getvalue().splitlines()


def texts(event: Event) -> list[str]:
    return [line.split("] ", 1)[1] for line in caffe_lines(event)]


def moment(line: str) -> datetime:
    """The time of a line, read by columns as log parsers do: Immdd, then hh:mm:ss.ffffff."""
    words = line.split()
    return datetime.strptime("2024" + words[0][1:] + " " + words[1], "%Y%m%d %H:%M:%S.%f")


def parse(lines: list[str]) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Training and test rows, found the way log parsers of Caffe's users find them."""
    number = r"([\.\deE+-]+)"
    train: list[dict[str, float]] = []
    test: list[dict[str, float]] = []
    begin = moment(next(line for line in lines if "Solving" in line))
    iteration, lr = -1.0, float("nan")
    for line in lines:
        if found := re.search(r"Iteration (\d+)", line):
            iteration = float(found[1])
        if iteration == -1:
            continue
        seconds = (moment(line) - begin).total_seconds()
        if found := re.search(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)", line):
            lr = float(found[1])
            if train and train[-1]["iteration"] == iteration:
                train[-1]["lr"] = lr
        for rows, pattern in (
            (train, r"Train net output #(\d+): (\S+) = "),
            (test, r"Test net output #(\d+): (\S+) = "),
        ):
            if found := re.search(pattern + number, line):
                if not rows or rows[-1]["iteration"] != iteration:
                    rows.append({"iteration": iteration, "seconds": seconds})
                rows[-1][f"{found[2]}#{found[1]}"] = float(found[3])
    return train, test


def test_a_log_parser_of_caffe_reads_every_number() -> None:
    train, test = parse(log_of(a_run()))
    assert train == [
        {"iteration": 0, "seconds": 3.0, "loss#0": 2.5, "lr": 0.01},
        {"iteration": 100, "seconds": 7.5, "loss#0": 0.2, "lr": 9.92565e-05},
    ]
    classes = {"per_class#1": 0.25, "per_class#2": 0.5, "per_class#3": 1.0, "loss#4": 0.75}
    assert test == [
        {"iteration": 0, "seconds": 2.0, "accuracy#0": 0.5, **classes},
        {"iteration": 100, "seconds": 6.0, "accuracy#0": 0.974, **classes},
    ]


def test_every_line_has_glogs_prefix() -> None:
    for line in log_of(a_run()):
        assert re.match(r"[IWE]1123 04:32:\d\d\.\d{6} +\d+ \S+:\d+\] ", line), line


def test_lines_are_worded_as_caffe_words_them() -> None:
    assert [line.split("] ", 1)[1] for line in log_of(a_run())][1:] == [
        "Solving LeNet",
        "Learning Rate Policy: inv",
        "Iteration 0, Testing net (#0)",
        "    Test net output #0: accuracy = 0.5",
        "    Test net output #1: per_class = 0.25",
        "    Test net output #2: per_class = 0.5",
        "    Test net output #3: per_class = 1",
        "    Test net output #4: loss = 0.75 (* 1 = 0.75 loss)",
        "Iteration 0, loss = 2.5",
        "    Train net output #0: loss = 2.5 (* 1 = 2.5 loss)",
        "Iteration 0, lr = 0.01",
        "Iteration 100, Testing net (#0)",
        "    Test net output #0: accuracy = 0.974",
        "    Test net output #1: per_class = 0.25",
        "    Test net output #2: per_class = 0.5",
        "    Test net output #3: per_class = 1",
        "    Test net output #4: loss = 0.75",
        "Iteration 100, loss = 0.213",
        "    Train net output #0: loss = 0.2 (* 2 = 0.4 loss)",
        "Iteration 100, lr = 9.92565e-05",
        "Snapshotting to binary proto file l_iter_200.caffemodel",
        "Snapshotting solver state to binary proto file l_iter_200.solverstate",
        "Optimization Done.",
    ]


def test_the_start_up_line_states_the_effective_batch() -> None:
    first = log_of(a_run())[0]
    assert "2 workers x 1 device x batch 64: effective batch 128; 4000 rows; to iteration 200 (6.4 epochs)" in first


def test_the_start_up_line_says_that_a_run_goes_on() -> None:
    assert texts(started(start_iteration=100))[0].endswith("going on from iteration 100")


def test_hdf5_snapshots_are_named_so() -> None:
    event = Snapshot(iteration=1, model="m.caffemodel.h5", state="m.solverstate.h5", format="HDF5")
    assert texts(event) == [
        "Snapshotting to HDF5 file m.caffemodel.h5",
        "Snapshotting solver state to HDF5 file m.solverstate.h5",
    ]


def test_a_snapshot_without_a_state_names_the_model_only() -> None:
    assert len(texts(Snapshot(iteration=1, model="m"))) == 1


@pytest.mark.parametrize("display", [0, 60])
def test_iterations_are_shown_at_the_display_interval_only(display: int) -> None:
    lines = log_of([started(display=display), *a_run()[3:5], Progress(rank=0, iteration=60, loss=1.0, lr=0.1)])
    shown = [int(found[1]) for line in lines if (found := re.search(r"Iteration (\d+), loss", line))]
    assert shown == ([0, 60] if display else [])


def test_only_rank_0_is_shown() -> None:
    lines = log_of([started(), Progress(rank=1, iteration=100, loss=1.0, lr=0.1)])
    assert not any("Iteration" in line for line in lines)


def test_what_went_wrong_is_in_the_log_with_its_place() -> None:
    lines = log_of(
        [
            Warned(message="row 7 was skipped", rank=1, host="node3"),
            Restarted(generation=1, reason="rank 1 on node3 was killed", iteration=100),
            RunEnded(iteration=150, status="failed", message="loss is nan\nat iteration 150"),
        ]
    )
    assert [line[0] for line in lines] == ["W", "W", "E", "E"]
    assert "row 7 was skipped (rank 1 on node3)" in lines[0]
    assert "rank 1 on node3 was killed" in lines[1]
    assert all(line.startswith("E") and "] " in line for line in lines[2:])


def test_a_stopped_run_says_so() -> None:
    assert texts(RunEnded(iteration=9, status="stopped")) == ["Optimization stopped early."]


def test_events_without_words_write_nothing() -> None:
    assert log_of([UnknownEvent(kind="rebalanced")]) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "(6.4 epochs); base_lr 0.01; seed 7"),
        ({"lr_scale": 4.0}, "base_lr 0.01 x 4; seed 7"),
        ({"lr_scale": 4.0, "warmup": 500}, "base_lr 0.01 x 4, from iteration 500 on; seed 7"),
        ({"local_share": 0.75}, "seed 7; 75% of the rows' bytes lie on their reader's host"),
        ({"start_iteration": 20}, "seed 7; going on from iteration 20"),
    ],
)
def test_the_first_line_says_what_the_run_amounts_to(changes: dict[str, object], words: str) -> None:
    """Batch, rows, epochs and rate as they will be, before anything is waited for."""
    line = describe_run(started(**changes))
    assert line.startswith("2 workers x 1 device x batch 64: effective batch 128; 4000 rows; to iteration 200 ")
    assert words in line
