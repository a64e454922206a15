"""What happens in a run, as typed records: the one language between ranks, driver, run folder and views.

A record is a frozen dataclass with a ``kind`` and a ``time``; :meth:`Event.to_dict` gives strict JSON and
:func:`from_dict` reads it back. Kinds that this version does not know are kept as they are, so that an older
program can watch a newer run.
"""

from __future__ import annotations

import dataclasses
import math
import time as clock
from collections.abc import Mapping
from typing import Any

from cosdask.errors import ConfigError

#: A net's output: one number, or one a class or position.
Output = float | list[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        kind: the name of the event's type, as stored.
        time: when it happened, in seconds since 1970 (UTC).
    """

    kind: str = dataclasses.field(default="event", init=False)
    time: float = dataclasses.field(default_factory=clock.time)

    def to_dict(self) -> dict[str, Any]:
        """The event as strict JSON values; numbers that JSON lacks become "NaN", "Infinity" and "-Infinity"."""
        return {field.name: _to_json(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Event:
        """See :func:`from_dict`."""
        return from_dict(record)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnknownEvent(Event):
    """An event of a kind that this version does not know.

    Attributes:
        data: everything the record held besides ``kind`` and ``time``.
    """

    kind: str = dataclasses.field(default="unknown")
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The record as it was read."""
        return {"kind": self.kind, "time": self.time, **self.data}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """The group is together and training begins.

    Attributes:
        workers: ranks that take part.
        devices_per_worker: devices each of them drives.
        batch_per_device: the prototxt's batch_size.
        effective_batch: rows an iteration over all devices, ``iter_size`` included.
        max_iter: the iteration at which the run ends.
        rows: rows of the training source.
        epochs: passes over the rows that the iterations left to do amount to.
        base_lr: the solver's base learning rate.
        lr_scale: what it is multiplied with (``scale_lr``), once ``warmup`` iterations have raised it from 1.
        warmup: iterations.
        seed: the seed in use, also when it was drawn.
        ranks: for each rank a dict of ``rank``, ``host``, ``worker`` and ``threads``.
        start_iteration: iterations done before; above 0 when a run goes on from a snapshot.
        model: where the model goes.
        net: the network's name.
        lr_policy: the solver's learning-rate policy.
        display: iterations between two log lines; 0 means none.
        local_share: part of the rows' bytes, 0 to 1, that lies on the host of the worker that reads them; None where
            rows have no hosts.
        locality_problem: why that is not known of rows in HDFS.
        starting: seconds that the parts of rank 0's start took, one after the other: ``imports`` (of its process, 0
            where it waited as a spare), ``group`` (until all ranks had met), ``net`` (nets, weights, state and rows).
    """

    kind: str = dataclasses.field(default="run_started", init=False)
    workers: int
    devices_per_worker: int
    batch_per_device: int
    effective_batch: int
    max_iter: int
    rows: int
    epochs: float
    base_lr: float
    seed: int
    ranks: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    start_iteration: int = 0
    model: str = ""
    net: str = ""
    lr_policy: str = ""
    display: int = 0
    local_share: float | None = None
    locality_problem: str = ""
    lr_scale: float = 1.0
    warmup: int = 0
    starting: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """A finished iteration, as one rank saw it.

    Attributes:
        rank: the reporting rank; rank 0 is the one that views show.
        iteration: Caffe's number of the iteration, from 0.
        loss: its loss, averaged over all devices.
        memory: most bytes of main memory that the rank's process has held.
        smoothed_loss: mean loss of the last ``average_loss`` iterations; None where it equals ``loss``.
        lr: learning rate the iteration used.
        rows_per_second: rows the whole group takes in a second.
        input_share: part of the time, 0 to 1, spent waiting for data.
        compute_share: part spent in the step.
        communication_share: part spent exchanging gradients.
        outputs: the net's outputs in Caffe's order.
        loss_weights: weights of those outputs that count in the loss.
        rank_loss: the loss over the rank's own devices; None where there is but one rank.
        gradient_norm: L2 norm of the mean gradient before clipping and weight decay, of this iteration or of the last
            before it that was looked at (each that is displayed, and every tenth); None where it is not known.
        busy_seconds: seconds an iteration that the rank's threads ran, waited for a processor, or waited for rows; what
            is left out is waiting for the others. None where the system does not tell.
    """

    kind: str = dataclasses.field(default="progress", init=False)
    rank: int
    iteration: int
    loss: float
    lr: float
    rows_per_second: float = 0.0
    input_share: float = 0.0
    compute_share: float = 0.0
    communication_share: float = 0.0
    memory: int = 0
    outputs: dict[str, Output] = dataclasses.field(default_factory=dict)
    loss_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    smoothed_loss: float | None = None
    rank_loss: float | None = None
    gradient_norm: float | None = None
    busy_seconds: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationStarted(Event):
    """A validation begins.

    Attributes:
        iteration: training iterations done.
        net: index of the test net.
    """

    kind: str = dataclasses.field(default="validation_started", init=False)
    iteration: int
    net: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation(Event):
    """The result of a validation.

    Attributes:
        iteration: training iterations done.
        net: index of the test net.
        outputs: the test net's outputs in Caffe's order, averaged over the rows.
        loss_weights: weights of those outputs that count in the loss.
        rows: rows evaluated over all ranks.
        seconds: time it took.
    """

    kind: str = dataclasses.field(default="validation", init=False)
    iteration: int
    net: int = 0
    outputs: dict[str, Output] = dataclasses.field(default_factory=dict)
    loss_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    rows: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot(Event):
    """A whole snapshot was written.

    Attributes:
        iteration: training iterations done.
        model: path of the model.
        state: path of the solver state; empty where only the model was written.
        format: "BINARYPROTO" or "HDF5".
    """

    kind: str = dataclasses.field(default="snapshot", init=False)
    iteration: int
    model: str
    state: str = ""
    format: str = "BINARYPROTO"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restarted(Event):
    """A new group took over after a rank was lost.

    Attributes:
        generation: number of the group, from 1 for the first that replaces another.
        reason: what happened to the one before.
        iteration: iterations done in the snapshot that the new group starts from.
    """

    kind: str = dataclasses.field(default="restarted", init=False)
    generation: int
    reason: str
    iteration: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """Something the user should know that does not stop the run.

    Attributes:
        message: the whole text.
        rank: where it comes from; None for the driver.
        host: that rank's host.
    """

    kind: str = dataclasses.field(default="warned", init=False)
    message: str
    rank: int | None = None
    host: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowsSkipped(Warned):
    """Rows that cannot be read were left out.

    Attributes:
        count: how often a rank went on without a row, so far: a bad row counts once in each epoch.
        rows: those met for the first time, each with ``source``, ``partition``, ``row``, ``id``, ``column`` and
            ``reason``; of very many only the first are listed.
    """

    kind: str = dataclasses.field(default="rows_skipped", init=False)
    count: int
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunEnded(Event):
    """The last event of a run.

    Attributes:
        iteration: training iterations done.
        status: "done", "stopped" (asked to) or "failed".
        message: why, where the run is not done.
        seconds: time since the run began.
    """

    kind: str = dataclasses.field(default="run_ended", init=False)
    iteration: int
    status: str
    message: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DebugInfo(Event):
    """What ``debug_info`` shows of an iteration.

    Attributes:
        iteration: Caffe's number of the iteration, from 0.
        lines: Caffe's words, a blob or weight each.
    """

    kind: str = dataclasses.field(default="debug_info", init=False)
    iteration: int
    lines: list[str] = dataclasses.field(default_factory=list)


_KINDS: dict[str, type[Event]] = {
    str(cls.kind): cls
    for cls in (
        RunStarted,
        Progress,
        ValidationStarted,
        Validation,
        Snapshot,
        Restarted,
        Warned,
        RowsSkipped,
        RunEnded,
        DebugInfo,
    )
}


def thin_out(steps: dict[int, Any], most: int) -> None:
    """Drop every other entry where there are more than ``most``, by iteration, but not the first and the last.

    Example:
        >>> steps = dict.fromkeys(range(7))
        >>> thin_out(steps, 5)
        >>> list(steps)
        [0, 2, 4, 6]
    """
    if len(steps) > most:
        for iteration in sorted(steps)[1:-1:2]:
            del steps[iteration]


def from_dict(record: Mapping[str, Any]) -> Event:
    """The event that :meth:`Event.to_dict` wrote.

    Fields that this version does not know are left out; whole kinds that it does not know come back as
    :class:`UnknownEvent`.

    Raises:
        ConfigError: the record has no kind, or lacks a field of its kind.

    Example:
        >>> event = from_dict({"kind": "snapshot", "time": 0.0, "iteration": 100, "model": "lenet_iter_100.caffemodel"})
        >>> event.iteration, event.format
        (100, 'BINARYPROTO')
    """
    kind = record.get("kind")
    if not isinstance(kind, str):
        raise ConfigError(f"an event record without a kind: {str(dict(record))[:200]}")
    if kind not in _KINDS:
        rest = {name: value for name, value in record.items() if name not in ("kind", "time")}
        return UnknownEvent(kind=kind, time=_from_json(record.get("time", 0.0)), data=rest)
    values = {
        field.name: record[field.name] if field.type == "str" else _from_json(record[field.name])
        for field in dataclasses.fields(_KINDS[kind])
        if field.init and field.name in record
    }
    try:
        return _KINDS[kind](**values)
    except TypeError as error:
        raise ConfigError(f'a damaged "{kind}" event record: {error}', kind=kind) from None


_NOT_JSON = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _to_json(value: Any) -> Any:
    """``value`` in JSON's types; arrays and array scalars of any library become lists and numbers."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _from_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):  # what travels between Dask's processes arrives as tuples
        return [_from_json(item) for item in value]
    return _NOT_JSON.get(value, value) if isinstance(value, str) else value
