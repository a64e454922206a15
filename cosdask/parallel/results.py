"""What a training gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from cosdask.errors import GroupError
from cosdask.events import (
    DebugInfo,
    Event,
    Progress,
    Restarted,
    RowsSkipped,
    RunEnded,
    RunStarted,
    Snapshot,
    Validation,
    ValidationStarted,
    thin_out,
)
from cosdask.nn.net import Net
from cosdask.proto import caffe_pb2, parse_solver
from cosdask.solver.nets import train_net


@dataclass
class TrainResult:
    """A finished (or stopped) training.

    Attributes:
        model_path: the final model.
        run_folder: configuration, events, validations and snapshots, beside the model.
        history: a row a progress event of rank 0: iteration, loss, lr, rows_per_second, gradient_norm, the shares of
            input, compute and communication, and the net's outputs.
        validation: a row a validation: iteration, then a column an output.
        iterations: iterations done.
        status: ``"done"`` or ``"stopped"``.
        seconds: from the first step to the end.
        stopped_early: why a callback ended the run before ``max_iter``; "" where none did.
        started: what the run was: workers, effective batch, rows, epochs, seed.
        snapshots: the snapshots written.
        restarts: why new groups formed, oldest first.
        skipped: rows that could not be read and were left out, where that was asked for.
    """

    model_path: str
    run_folder: str
    history: pd.DataFrame
    validation: pd.DataFrame
    iterations: int
    status: str
    seconds: float
    started: RunStarted | None
    snapshots: list[Snapshot] = field(default_factory=list)
    restarts: list[Restarted] = field(default_factory=list)
    stopped_early: str = ""
    skipped: list[dict[str, Any]] = field(default_factory=list)
    solver: caffe_pb2.SolverParameter = field(default_factory=caffe_pb2.SolverParameter, repr=False)

    @cached_property
    def params(self) -> dict[str, Any]:
        """The final weights, ``{layer: [array]}`` in Caffe's shapes; read from ``model_path`` when first asked for."""
        return self.net.to_blobs(self.net.params)

    @cached_property
    def net(self) -> Net:
        """The TRAIN net with the final weights."""
        if self.status != "done":
            raise GroupError(
                f"the training was stopped after {self.iterations} iterations, so there is no final model."
            )
        return train_net(self.solver, None).open(weights=self.model_path)


#: rows of the history from which on older ones are thinned out
HISTORY = 50_000


class Record:
    """Keeps what a run's result is made of; its memory stays flat however long the run is.

    Of a history that grows beyond ``HISTORY`` rows every other one is dropped; the run folder keeps all.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._rows: dict[int, dict[str, Any]] = {}
        self._reached = -1

    def handle(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, Progress):
            self._progress(event)
        elif not isinstance(event, DebugInfo | ValidationStarted):
            self.events.append(event)

    def _progress(self, event: Progress) -> None:
        self._reached = max(self._reached, event.iteration)
        if event.rank:
            return
        self._rows[event.iteration] = {
            "iteration": event.iteration,
            "loss": event.loss,
            "lr": event.lr,
            "rows_per_second": event.rows_per_second,
            "gradient_norm": event.gradient_norm,
            "input_share": event.input_share,
            "compute_share": event.compute_share,
            "communication_share": event.communication_share,
            **{name: value for name, value in event.outputs.items() if name != "loss"},
        }
        thin_out(self._rows, HISTORY)

    def close(self) -> None:
        """Nothing to end."""

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of a kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def reached(self) -> int:
        """The last iteration that was told of, in any group."""
        return self._reached

    def history(self) -> pd.DataFrame:
        """A row a progress event of rank 0; iterations made again after a restart replace the first ones."""
        return pd.DataFrame([self._rows[iteration] for iteration in sorted(self._rows)])

    def validation(self) -> pd.DataFrame:
        """A row a validation of the first test net: iteration, then a column an output."""
        rows = {
            event.iteration: {"iteration": event.iteration, **event.outputs}
            for event in self.of(Validation)
            if event.net == 0
        }
        return pd.DataFrame([rows[iteration] for iteration in sorted(rows)])

    def result(self, job_solver: str, model: str, run_folder: str) -> TrainResult:
        """The result, once the run has ended."""
        started, ended = self.of(RunStarted), self.of(RunEnded)
        if not ended:
            raise GroupError("the group ended without saying how; its events did not reach the client.")
        return TrainResult(
            model_path=model,
            run_folder=run_folder,
            history=self.history(),
            validation=self.validation(),
            iterations=ended[-1].iteration,
            status=ended[-1].status,
            seconds=ended[-1].seconds,
            started=started[0] if started else None,
            snapshots=self.of(Snapshot),
            restarts=self.of(Restarted),
            skipped=[row for event in self.of(RowsSkipped) for row in event.rows],
            solver=parse_solver(job_solver),
        )
