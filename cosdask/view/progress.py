"""What a person sees while a run goes on: a progress bar, Caffe's log lines, or JSON."""

from __future__ import annotations

import json
import sys
from typing import IO, Any, Protocol

from cosdask.config import PROGRESS_MODES
from cosdask.errors import ConfigError, did_you_mean
from cosdask.events import Event, Progress, Restarted, RunEnded, RunStarted, Snapshot, Validation, Warned
from cosdask.view.caffe_lines import caffe_lines, describe_run


class Consumer(Protocol):
    """Takes the events of one run after another, in order."""

    def handle(self, event: Event) -> None:
        """Shows or stores one event."""

    def close(self) -> None:
        """Called once, after the last event, however the run ended."""


class LineLog:
    """Caffe's log lines, an iteration every ``display`` iterations; Caffe's own choice for logs.

    Args:
        stream: text stream to write to; standard error, as Caffe, when None.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._display = 0

    def handle(self, event: Event) -> None:
        """Writes the event's lines."""
        if isinstance(event, RunStarted):
            self._display = event.display
        if isinstance(event, Progress) and not self._shown(event):
            return
        for line in caffe_lines(event):
            self._stream.write(line + "\n")
        self._stream.flush()

    def _shown(self, event: Progress) -> bool:
        return event.rank == 0 and self._display > 0 and event.iteration % self._display == 0

    def close(self) -> None:
        """Leaves the stream open; it belongs to the caller."""
        self._stream.flush()


class JsonLines:
    """Every event as one JSON object a line, for programs.

    Args:
        stream: text stream to write to; standard error when None, since results go to standard output.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream

    def handle(self, event: Event) -> None:
        """Writes the event."""
        self._stream.write(json.dumps(event.to_dict(), allow_nan=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Leaves the stream open; it belongs to the caller."""
        self._stream.flush()


class ProgressBar:
    """A bar with iteration, loss, the last validation's outputs, rows per second and time left.

    In a notebook it is a widget; in a terminal, a line that is rewritten.

    Args:
        stream: text stream to write to; standard error when None.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream
        self._bar: Any = None
        self._shown: dict[str, str] = {}

    def handle(self, event: Event) -> None:
        """Moves the bar, or writes a line above it."""
        match event:
            case RunStarted():
                self._start(event)
            case Progress() if event.rank == 0:
                self._advance(event)
            case Validation():
                self._validated(event)
            case Snapshot():
                self._write(f"iteration {event.iteration}: snapshot {event.state or event.model}")
            case Restarted():
                self._write(f"going on from iteration {event.iteration} in a new group ({event.reason})")
            case Warned():
                self._write(f"warning: {event.message}")
            case RunEnded():
                self._end(event)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _start(self, event: RunStarted) -> None:
        # tqdm.auto looks for a notebook when it is imported, which costs time that only a bar should pay.
        from tqdm.auto import tqdm

        self.close()
        self._shown = {}
        self._write(describe_run(event))
        self._bar = tqdm(
            total=event.max_iter,
            initial=event.start_iteration,
            desc=event.net or "training",
            unit="it",
            file=self._stream,
            dynamic_ncols=True,
        )

    def _advance(self, event: Progress) -> None:
        self._shown["loss"] = f"{event.loss if event.smoothed_loss is None else event.smoothed_loss:.4g}"
        self._shown["rows/s"] = f"{event.rows_per_second:.0f}"
        self._move(event.iteration + 1)

    def _validated(self, event: Validation) -> None:
        numbers = {name: value for name, value in event.outputs.items() if isinstance(value, float | int)}
        told = ", ".join(f"{name} = {value:.4g}" for name, value in numbers.items())
        self._write(f"iteration {event.iteration}: {told} ({event.rows} rows)")
        for name, value in numbers.items():
            if name not in event.loss_weights:
                self._shown[name] = f"{value:.4g}"

    def _end(self, event: RunEnded) -> None:
        if event.status == "done":
            self._move(event.iteration)
        self.close()
        if event.message:
            self._write(event.message)

    def _move(self, iteration: int) -> None:
        if self._bar is None:
            return
        self._bar.set_postfix(self._shown, refresh=False)
        # A new group starts again from its snapshot, so the bar may also have to go back.
        self._bar.update(iteration - self._bar.n)

    def _write(self, text: str) -> None:
        stream = sys.stderr if self._stream is None else self._stream
        if self._bar is None:
            stream.write(text + "\n")
        else:
            self._bar.write(text, file=stream)


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")


def default_consumers(display: str = "auto", stream: IO[str] | None = None) -> list[Consumer]:
    """The views for a run.

    Args:
        display: "bar", "lines" (Caffe's log lines), "json" (a JSON object a line), "none", or "auto": a bar in
            notebooks and terminals, lines elsewhere.
        stream: text stream to write to; when None standard error, in notebooks the cell's output.

    Raises:
        ConfigError: another word.
    """
    if display == "auto":
        target = sys.stderr if stream is None else stream
        display = "bar" if in_notebook() or target.isatty() else "lines"
    if stream is None and in_notebook():
        # notebooks paint standard error as if something had gone wrong
        stream = sys.stdout if display in ("lines", "json") else None
    match display:
        case "bar":
            return [ProgressBar(stream)]
        case "lines":
            return [LineLog(stream)]
        case "json":
            return [JsonLines(stream)]
        case "none":
            return []
    hint = did_you_mean(display, PROGRESS_MODES)
    raise ConfigError(f'progress "{display}" is not one of {", ".join(PROGRESS_MODES)}.{hint}', option="progress")
