"""Events: typed, strict JSON, readable by older and newer programs."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosdask import events
from cosdask.errors import ConfigError
from cosdask.events import Event, Progress, RunEnded, RunStarted, Snapshot, UnknownEvent, Validation, Warned
from cosdask.view.caffe_lines import caffe_lines

NUMBERS = st.floats(allow_nan=False, width=32)
OUTPUTS = st.dictionaries(st.text(min_size=1), NUMBERS | st.lists(NUMBERS, min_size=1, max_size=3), max_size=3)

EXAMPLES = st.one_of(
    st.builds(Progress, rank=st.integers(0, 9), iteration=st.integers(0), loss=NUMBERS, lr=NUMBERS, outputs=OUTPUTS),
    st.builds(Validation, iteration=st.integers(0), outputs=OUTPUTS, rows=st.integers(0)),
    st.builds(Snapshot, iteration=st.integers(0), model=st.text(), state=st.text()),
    st.builds(Warned, message=st.text(), rank=st.none() | st.integers(0, 9), host=st.text()),
    st.builds(RunEnded, iteration=st.integers(0), status=st.sampled_from(["done", "stopped", "failed"])),
    st.builds(events.Restarted, generation=st.integers(1), reason=st.text(), iteration=st.integers(0)),
    st.builds(events.ValidationStarted, iteration=st.integers(0), net=st.integers(0, 3)),
)


@given(EXAMPLES)
def test_events_survive_strict_json(event: Event) -> None:
    text = json.dumps(event.to_dict(), allow_nan=False)
    assert events.from_dict(json.loads(text)) == event


def test_run_started_survives_strict_json() -> None:
    event = RunStarted(
        workers=2, devices_per_worker=1, batch_per_device=64, effective_batch=128, max_iter=2000, rows=4000,
        epochs=64.0, base_lr=0.01, seed=7, ranks=[{"rank": 0, "host": "a", "worker": "w0", "threads": 1}],
    )  # fmt: skip
    assert Event.from_dict(json.loads(json.dumps(event.to_dict()))) == event
    assert event.to_dict()["kind"] == "run_started"


def test_a_loss_that_is_not_a_number_is_kept_without_breaking_json() -> None:
    event = Progress(
        rank=0, iteration=3, loss=math.nan, lr=0.1, outputs={"loss": math.inf, "per_class": [1.0, -math.inf]}
    )
    back = events.from_dict(json.loads(json.dumps(event.to_dict(), allow_nan=False)))
    assert isinstance(back, Progress)
    assert math.isnan(back.loss) and back.outputs == {"loss": math.inf, "per_class": [1.0, -math.inf]}


def test_array_values_become_plain_numbers() -> None:
    event = Progress(rank=0, iteration=1, loss=np.float32(0.5), lr=0.1, outputs={"ip": np.ones(2, np.float32)})
    record = event.to_dict()
    assert record["loss"] == 0.5 and record["outputs"] == {"ip": [1.0, 1.0]}


def test_lists_that_arrive_as_tuples_are_lists() -> None:
    """Dask's messages make tuples of lists; a net's output with a number a class is shown all the same."""
    record = Progress(rank=0, iteration=0, loss=1.0, lr=0.1, outputs={"a class": [0.5, math.nan]}).to_dict()
    record["outputs"] = {"a class": tuple(record["outputs"]["a class"])}
    event = events.from_dict(record)
    assert isinstance(event, Progress) and event.outputs["a class"][0] == 0.5
    assert [line for line in caffe_lines(event) if "net output #1: a class = nan" in line]


def test_words_that_look_like_numbers_stay_words_in_text_fields() -> None:
    event = Warned(message="NaN")
    assert events.from_dict(event.to_dict()) == event


def test_a_kind_from_a_newer_version_is_kept_as_it_is() -> None:
    record = {"kind": "rebalanced", "time": 5.0, "moved_rows": 12, "note": "NaN"}
    event = events.from_dict(record)
    assert isinstance(event, UnknownEvent)
    assert event.kind == "rebalanced" and event.to_dict() == record


def test_a_field_from_a_newer_version_is_left_out() -> None:
    record = {**Snapshot(iteration=1, model="m").to_dict(), "checksum": "abc"}
    assert events.from_dict(record) == dataclasses.replace(Snapshot(iteration=1, model="m"), time=record["time"])


@pytest.mark.parametrize("record", [{}, {"kind": 3}, {"kind": "snapshot", "time": 0.0}])
def test_damaged_records_are_refused(record: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="event record"):
        events.from_dict(record)


def test_events_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Snapshot(iteration=1, model="m").iteration = 2  # type: ignore[misc]
