"""Watching the loss: one that is no number, or that has run away, is told where the user looks."""

from __future__ import annotations

import math
from collections.abc import Callable

from cosdask.errors import SolverError
from cosdask.events import Event, Warned

#: a loss this many times the first one (or 1, where that is smaller) has run away
EXPLODED = 1000.0


class LossWatch:
    """Looks at losses as they are told.

    Args:
        on_nan: ``"stop"`` raises at a loss that is no number, ``"warn"`` only tells of the first one.
        emit: takes the warnings, one of each kind.

    Raises:
        SolverError: when called with a loss that is no number, where that shall stop the training.

    Example:
        >>> LossWatch("stop", print)(12, float("nan"))
        Traceback (most recent call last):
            ...
        cosdask.errors.SolverError: the loss of iteration 12 is nan. A learning rate that is too high is the usual...
    """

    def __init__(self, on_nan: str, emit: Callable[[Event], None]) -> None:
        self._on_nan, self._emit = on_nan, emit
        self._first: float | None = None
        self._told: set[str] = set()

    def __call__(self, iteration: int, loss: float) -> None:
        """Look at an iteration's loss."""
        if not math.isfinite(loss):
            self._not_a_number(iteration, loss)
        elif self._first is None:
            self._first = loss
        elif loss > EXPLODED * max(1.0, abs(self._first)):
            self._tell("exploded", f"the loss of iteration {iteration} is {loss:.4g}; it began at {self._first:.4g}.")

    def _not_a_number(self, iteration: int, loss: float) -> None:
        message = (
            f"the loss of iteration {iteration} is {loss}. A learning rate that is too high is the usual cause: lower "
            "base_lr, set clip_gradients, or look for rows whose values are out of range."
        )
        if self._on_nan == "stop":
            raise SolverError(f"{message} To go on all the same, as Caffe does: --on-nan warn", iteration=iteration)
        self._tell("nan", message)

    def _tell(self, kind: str, message: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._emit(Warned(message=message))
