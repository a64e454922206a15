"""What a training gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from cosdask.errors import GroupError
from cosdask.events import Event, Progress, Restarted, RowsSkipped, RunEnded, RunStarted, Snapshot, Validation
from cosdask.nn.net import Net
from cosdask.proto import caffe_pb2, parse_solver
from cosdask.solver.nets import train_net


@dataclass
class TrainResult:
    """A finished (or stopped) training.

    Attributes:
        model_path: the final model.
        run_folder: configuration, events, validations and snapshots, beside the model.
        history: a row a progress event of rank 0: iteration, loss, lr, rows_per_second, and the net's outputs.
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


class Record:
    """Keeps a run's events and makes the result of them."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event) -> None:
        """Take an event."""
        self.events.append(event)

    def close(self) -> None:
        """Nothing to end."""

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of a kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def reached(self) -> int:
        """The last iteration that rank 0 told of, in any group."""
        return max((event.iteration for event in self.of(Progress)), default=-1)

    def history(self) -> pd.DataFrame:
        """A row a progress event of rank 0; iterations made again after a restart replace the first ones."""
        rows = {
            event.iteration: {
                "iteration": event.iteration,
                "loss": event.loss,
                "lr": event.lr,
                "rows_per_second": event.rows_per_second,
                **{name: value for name, value in event.outputs.items() if name != "loss"},
            }
            for event in self.of(Progress)
            if event.rank == 0
        }
        return pd.DataFrame([rows[iteration] for iteration in sorted(rows)])

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
