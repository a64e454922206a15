"""Users' own functions along a run: told of steps, validations, snapshots and restarts, and free to end it early."""

from __future__ import annotations

import math
from collections.abc import Callable

from cosdask.errors import ConfigError, did_you_mean
from cosdask.events import Event, Progress, Restarted, Snapshot, Validation


class StopTraining(Exception):
    """Raised by a callback: the training ends after the iteration in hand, as if ``max_iter`` were reached.

    The group validates where it was to do so at the end, snapshots and saves the model.

    Args:
        reason: kept with the result.
    """


class Callbacks:
    """Calls functions with a run's events.

    Args:
        on_step: with each :class:`~cosdask.events.Progress` of rank 0: at every ``display``, and every half second.
        on_validation: with each :class:`~cosdask.events.Validation`.
        on_snapshot: with each :class:`~cosdask.events.Snapshot`.
        on_restart: with each :class:`~cosdask.events.Restarted`.

    A function that raises :class:`StopTraining` ends the run early; any other error stops it, after a snapshot, and
    is raised by ``train``. The functions run in the client, on the thread that hears the events: quick ones only.

    Example:
        >>> from cosdask.events import Snapshot
        >>> told = Callbacks(on_snapshot=lambda event: print("snapshot", event.iteration))
        >>> told.handle(Snapshot(iteration=100, model="lenet_iter_100.caffemodel"))
        snapshot 100
    """

    def __init__(
        self,
        on_step: Callable[[Progress], object] | None = None,
        on_validation: Callable[[Validation], object] | None = None,
        on_snapshot: Callable[[Snapshot], object] | None = None,
        on_restart: Callable[[Restarted], object] | None = None,
    ) -> None:
        self._step, self._validation, self._snapshot, self._restart = on_step, on_validation, on_snapshot, on_restart

    def handle(self, event: Event) -> None:
        """Call the function for the event, where there is one."""
        match event:
            case Progress(rank=0) if self._step:
                self._step(event)
            case Validation() if self._validation:
                self._validation(event)
            case Snapshot() if self._snapshot:
                self._snapshot(event)
            case Restarted() if self._restart:
                self._restart(event)

    def close(self) -> None:
        """Nothing to end."""


class EarlyStop:
    """Ends a training when a validation's output has not become better for some validations in a row.

    Args:
        output: the TEST net's output to watch; one that is a list is watched by its mean.
        patience: validations without improvement that end the run.
        mode: ``"min"`` where less is better, ``"max"`` where more is; default: ``"min"`` for names with "loss".
        least: how much better counts.

    Raises:
        ConfigError: for another mode; when called, for an output that the net does not have.

    Example:
        >>> from cosdask.events import Validation
        >>> stop = EarlyStop("loss", patience=2)
        >>> for iteration, loss in [(100, 0.5), (200, 0.6), (300, 0.55)]:
        ...     stop.handle(Validation(iteration=iteration, outputs={"loss": loss}))
        Traceback (most recent call last):
            ...
        cosdask.view.callbacks.StopTraining: "loss" has not become better than 0.5 (iteration 100) in 2 validations
    """

    def __init__(self, output: str = "loss", patience: int = 3, mode: str = "", least: float = 0.0) -> None:
        self.output, self.patience, self.least = output, patience, least
        self.mode = mode or ("min" if "loss" in output.lower() else "max")
        if self.mode not in ("min", "max"):
            raise ConfigError(f'EarlyStop: mode "{mode}" is neither "min" nor "max".', mode=mode)
        self._begin()

    def _begin(self) -> None:
        self._best, self._best_at, self._since, self._seen = math.inf, 0, 0, -1

    def handle(self, event: Event) -> None:
        """Look at a validation of the first test net; one that a new group makes again counts once."""
        if not isinstance(event, Validation) or event.net or event.iteration <= self._seen:
            return
        self._seen = event.iteration
        if self.output not in event.outputs:
            hint = did_you_mean(self.output, event.outputs) or f" It has {', '.join(event.outputs)}."
            raise ConfigError(f'EarlyStop: the TEST net has no output "{self.output}".{hint}', output=self.output)
        found = event.outputs[self.output]
        value = sum(found) / len(found) if isinstance(found, list) else found
        cost = value if self.mode == "min" else -value
        if cost < self._best - self.least:
            self._best, self._best_at, self._since = cost, event.iteration, 0
            return
        self._since += 1
        if self._since >= self.patience:
            best = self._best if self.mode == "min" else -self._best
            raise StopTraining(
                f'"{self.output}" has not become better than {best:.6g} (iteration {self._best_at}) in '
                f"{self._since} validations"
            )

    def close(self) -> None:
        """The run has ended; the next one is judged by itself."""
        self._begin()
