"""A run as the client follows it: its events go to the consumers and are kept for the result."""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from distributed import Client

from cosdask.errors import DeadlineError, GroupError, StorageError
from cosdask.events import Event, RunEnded, Warned, from_dict
from cosdask.parallel.post import opened
from cosdask.parallel.results import Record
from cosdask.parallel.slow import SlowRanks
from cosdask.storage import RunFolder
from cosdask.view import Consumer, StopTraining, write_report

#: seconds to wait for the last event once the ranks have ended
_LAST_EVENT = 30.0
#: seconds to wait for it where the run was interrupted
_STRAY_EVENT = 1.0


class Run:
    """Listens to a run's topic while it is entered.

    Args:
        client: connected to the cluster.
        topic: the Dask topic of the run's events.
        folder: the run folder; the driver's own events are kept there too.
        consumers: what else is told of each event.
    """

    def __init__(self, client: Client, topic: str, folder: RunFolder, consumers: Sequence[Consumer]) -> None:
        self.folder, self.record = folder, Record()
        self._client, self._topic = client, topic
        self._ended = threading.Event()
        #: why a consumer ended the run early; "" where none did
        self.early = ""
        self._failure: Exception | None = None
        self._slow, self._to_tell = SlowRanks(), deque[str]()
        # a run that is taken up again goes on with its own record; views only show what is new
        for record in folder.read_events():
            self.record.handle(from_dict(record))
        self._consumers: list[Consumer] = [self.record, *consumers]

    def __enter__(self) -> None:
        # Events come in the client's own thread. What views write belongs to the notebook cell that waits for the run,
        # and notebooks know the cell by the context.
        self._context = contextvars.copy_context()
        self._client.subscribe_topic(self._topic, self._handle)

    def __exit__(self, *_: object) -> None:
        # each by itself, and none in place of what ended the run
        with contextlib.ExitStack() as endings:
            for consumer in self._consumers:
                endings.callback(consumer.close)
            if str(self._client.status) == "running":
                endings.callback(self._client.unsubscribe_topic, self._topic)
            endings.callback(self._close_folder)

    def _close_folder(self) -> None:
        try:
            self.folder.close()
        except StorageError as problem:
            self._spread(Warned(message=f"the run's last events are not in its folder: {problem.message}"))

    def _handle(self, message: Any) -> None:
        _, events = message
        for record in opened(events):
            self._context.run(self._spread, from_dict(record))

    def _spread(self, event: Event) -> None:
        for consumer in self._consumers:
            try:
                consumer.handle(event)
            except StopTraining as stop:
                self.early = self.early or str(stop) or "a callback asked to"
            except Exception as error:
                # it was raised on the thread that hears events; the one that waits for the run raises it to the user
                self._failure = self._failure or error
        if isinstance(event, RunEnded):
            self._ended.set()
        text = self._slow.notice(event)
        if text:
            self._to_tell.append(text)

    def wants_to_finish(self) -> bool:
        """Whether a consumer has ended the run early.

        Raises:
            Exception: what a consumer raised.
        """
        # told from here: the thread that hears events must not wait for the run folder
        while self._to_tell:
            self.warn(self._to_tell.popleft())
        if self._failure is not None:
            raise self._failure
        return bool(self.early)

    def wait_for_end(self) -> None:
        """Wait for the last event, which may come a moment after the ranks' results."""
        if not self._ended.wait(_LAST_EVENT):
            raise DeadlineError(f"the ranks ended, but their last event did not come within {_LAST_EVENT:.0f} s.")

    def tell(self, event: Event) -> None:
        """An event of the driver's own."""
        self._append(event)
        self._spread(event)

    def _append(self, event: Event) -> None:
        self.folder.append_event(event.to_dict())
        # they are few, and what a restart was for must be there if this client is the next to die
        self.folder.flush()

    def warn(self, message: str) -> None:
        """A warning of the driver's own; who listens hears it also where the run folder has no room for it."""
        try:
            self._append(Warned(message=message))
        except StorageError as problem:
            message = f"{message} (This is not in the run folder yet: {problem.message})"
        self._spread(Warned(message=message))

    def conclude(self, error: BaseException | None = None) -> None:
        """Keep how the run ended, and write its report.

        Args:
            error: what ended it; None where it came to its end.
        """
        if isinstance(error, GroupError) and error.where.get("taken_by"):
            self.folder.drop_waiting()
            return  # the folder tells of another run now
        try:
            if isinstance(error, KeyboardInterrupt):
                # ranks that were told to end by the same signal, or are gone, have told no end
                if not self._ended.wait(_STRAY_EVENT):
                    self._tell_end("stopped", "interrupted")
            elif error is not None:
                self._tell_end("failed", f"{type(error).__name__}: {error}")
            self.folder.flush()
            write_report(self.folder)
        except StorageError as problem:
            # the run's own end says more than this, and its model may be whole
            self._spread(Warned(message=f"the run's end is not in its folder: {problem.message}"))

    def _tell_end(self, status: str, message: str) -> None:
        self.tell(RunEnded(iteration=self.record.reached() + 1, status=status, message=message))

    def where_it_stopped(self) -> str:
        """What there is to go on from, in words; whether it is whole is looked at by who goes on."""
        try:
            kept = self.folder.read_snapshots()
        except StorageError as problem:
            return f"What there is to go on from cannot be seen now: {problem.message}"
        if not kept:
            return "There is no snapshot yet."
        newest = max(kept, key=lambda entry: entry["iteration"])
        what = "automatic checkpoint" if newest.get("automatic") else "snapshot"
        return f"The {what} of iteration {newest['iteration']} is {newest['state']}; go on from it with --resume."
