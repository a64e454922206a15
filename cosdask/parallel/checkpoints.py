"""Automatic checkpoints: what bounds the loss of a death where the solver snapshots rarely or never.

They lie in the run folder, two at most, and vanish when the run is done; the user's own snapshots are never touched.
"""

from __future__ import annotations

import contextlib
import math
import time

from cosdask.errors import StorageError
from cosdask.events import Warned
from cosdask.parallel.snapshots import enter_snapshot
from cosdask.solver import Emit, Engine, snapshot_names
from cosdask.storage import RunFolder, join, remove

#: pairs that are kept: the newest may be damaged by the very fault that it is needed for
KEPT = 2


class Checkpoints:
    """Writes a checkpoint when enough time has gone by since the last one; rank 0 has one of these.

    Args:
        engine: what is checkpointed.
        folder: the run folder.
        seconds: between two checkpoints; 0 makes none.
        emit: is told where one cannot be written; the training goes on.
    """

    def __init__(self, engine: Engine, folder: RunFolder, seconds: float, emit: Emit) -> None:
        self._engine, self._folder, self._seconds, self._emit = engine, folder, seconds, emit
        self._last = time.monotonic()

    def when_due(self) -> None:
        """Write one where it is time."""
        if self._seconds > 0 and time.monotonic() - self._last >= self._seconds:
            self.write()

    def postpone(self) -> None:
        """The solver has written a snapshot: that is as good."""
        self._last = time.monotonic()

    def write(self) -> bool:
        """Write one now; weights that a loss that is no number has spoiled are not worth it.

        Returns:
            Whether one was written.
        """
        self.postpone()
        engine = self._engine
        if not math.isfinite(engine.loss):
            return False
        prefix = join(join(self._folder.url, "checkpoints"), "auto")
        names = snapshot_names(prefix, engine.iteration, engine.param.snapshot_format)
        try:
            engine.snapshot(names)
            enter_snapshot(self._folder, *names, engine.iteration, automatic=True)
            self._rotate(KEPT)
        except StorageError as error:
            self._emit(Warned(message=f"no automatic checkpoint at iteration {engine.iteration}: {error.message}"))
            return False
        return True

    def clear(self) -> None:
        """The run is done: its checkpoints are of no more use."""
        with contextlib.suppress(StorageError):
            self._rotate(0)

    def _rotate(self, kept: int) -> None:
        """Forget all but the newest; first from the list, then from the disk."""
        automatic = [entry for entry in self._folder.read_snapshots() if entry.get("automatic")]
        old = automatic[: len(automatic) - kept]
        self._folder.forget_snapshots([entry["model"] for entry in old])
        for entry in old:
            remove(entry["state"])
            remove(entry["model"])
