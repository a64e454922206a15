"""Events as the log lines that Caffe writes, so that people's log parsers go on working.

The prefix is glog's: a letter for the severity, month and day, local time, process, file and line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import datetime

from cosdask.events import (
    DebugInfo,
    Event,
    Output,
    Progress,
    Restarted,
    RunEnded,
    RunStarted,
    Snapshot,
    Validation,
    ValidationStarted,
    Warned,
)


def caffe_lines(event: Event) -> Iterator[str]:
    """The log lines of an event, each with its prefix and without a line end; none for kinds Caffe has no words for.

    Example:
        >>> from cosdask.events import Progress
        >>> lines = list(caffe_lines(Progress(rank=0, iteration=100, loss=0.213, lr=0.0099)))
        >>> [line.split("] ")[1] for line in lines]
        ['Iteration 100, loss = 0.213', 'Iteration 100, lr = 0.0099']
    """
    for severity, text in _texts(event):
        for part in text.splitlines():
            yield _prefix(event.time, severity) + part


def _prefix(time: float, severity: str) -> str:
    moment = datetime.fromtimestamp(time).astimezone()
    return f"{severity}{moment:%m%d %H:%M:%S.%f} {os.getpid():5d} solver.py:1] "


def _texts(event: Event) -> Iterator[tuple[str, str]]:
    """Severity and text of each line."""
    match event:
        case RunStarted():
            yield from (("I", text) for text in _started(event))
        case Progress():
            loss = event.loss if event.smoothed_loss is None else event.smoothed_loss
            yield "I", f"Iteration {event.iteration}, loss = {loss:g}"
            yield from (("I", text) for text in _outputs("Train", event.outputs, event.loss_weights))
            yield "I", f"Iteration {event.iteration}, lr = {event.lr:g}"
        case ValidationStarted():
            yield "I", f"Iteration {event.iteration}, Testing net (#{event.net})"
        case DebugInfo():
            yield from (("I", text) for text in event.lines)
        case Validation():
            yield from (("I", text) for text in _outputs("Test", event.outputs, event.loss_weights))
        case Snapshot():
            form = "HDF5 file" if event.format.upper() == "HDF5" else "binary proto file"
            yield "I", f"Snapshotting to {form} {event.model}"
            if event.state:
                yield "I", f"Snapshotting solver state to {form} {event.state}"
        case Restarted():
            yield "W", f"Going on from iteration {event.iteration} in a new group ({event.reason})"
        case Warned():
            place = "" if event.rank is None else f" (rank {event.rank}{f' on {event.host}' if event.host else ''})"
            yield "W", event.message + place
        case RunEnded():
            yield _ended(event)


def _started(event: RunStarted) -> Iterator[str]:
    yield describe_run(event)
    yield f"Solving {event.net}".rstrip()
    if event.lr_policy:
        yield f"Learning Rate Policy: {event.lr_policy}"


def describe_run(event: RunStarted) -> str:
    """One sentence on what the run amounts to: workers, effective batch, rows, epochs."""
    workers = _count(event.workers, "worker")
    devices = _count(event.devices_per_worker, "device")
    text = (
        f"{workers} x {devices} x batch {event.batch_per_device}: effective batch {event.effective_batch}; "
        f"{event.rows} rows; to iteration {event.max_iter} ({event.epochs:.3g} epochs); base_lr {event.base_lr:g}"
    )
    if event.lr_scale != 1:
        text += f" x {event.lr_scale:g}"
        text += f", from iteration {event.warmup} on" if event.warmup else ""
    text += f"; seed {event.seed}"
    if event.local_share is not None:
        text += f"; {event.local_share:.0%} of the rows' bytes lie on their reader's host"
    elif event.locality_problem:
        text += f"; how much of the rows is local is not known ({event.locality_problem})"
    return f"{text}; going on from iteration {event.start_iteration}" if event.start_iteration else text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _outputs(net: str, outputs: Mapping[str, Output], weights: Mapping[str, float]) -> Iterator[str]:
    """A line for each number; Caffe counts the elements of all outputs through."""
    number = 0
    for name, output in outputs.items():
        weight = weights.get(name, 0.0)
        for value in output if isinstance(output, list) else [output]:
            loss = f" (* {weight:g} = {weight * value:g} loss)" if weight else ""
            yield f"    {net} net output #{number}: {name} = {value:g}{loss}"
            number += 1


def _ended(event: RunEnded) -> tuple[str, str]:
    if event.status == "done":
        return "I", "Optimization Done."
    text = "Optimization stopped early" if event.status == "stopped" else "Optimization failed"
    return "I" if event.status == "stopped" else "E", f"{text}: {event.message}" if event.message else f"{text}."
