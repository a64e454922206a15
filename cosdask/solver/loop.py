"""Caffe's training loop: test, step, display and snapshot when they are due, told to whoever listens."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

from cosdask.data.skips import in_words
from cosdask.events import DebugInfo, Event, Progress, RowsSkipped, Snapshot, Validation, ValidationStarted, Warned
from cosdask.nn.net import Net
from cosdask.proto import caffe_pb2
from cosdask.solver.busy import busy_seconds
from cosdask.solver.engine import Engine, plain_outputs
from cosdask.solver.watches import ExchangeWatch, InputWatch

Emit = Callable[[Event], None]


#: Seconds between two looks at how busy this rank is.
BUSY_PACE = 1.0
#: Seconds between two events about rows left out.
SKIPS_PACE = 1.0


@dataclass
class Pace:
    """How often progress is told besides the solver's ``display``: after the first step, then once in ``seconds``."""

    seconds: float = float("inf")


class Loop:
    """Runs an engine as Caffe's solver runs.

    Args:
        engine: carries the training on.
        emit: takes the events.
        pace: how often progress is told.
        rank: the rank that the events name.
        check_loss: is shown an iteration and its loss whenever progress is told, and before each snapshot.
        after_step: is called after every iteration.
    """

    def __init__(
        self,
        engine: Engine,
        emit: Emit,
        pace: Pace | None = None,
        rank: int = 0,
        check_loss: Callable[[int, float], None] | None = None,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        self._check_loss, self._after_step = check_loss, after_step
        self.engine, self._emit, self._rank = engine, emit, rank
        self._pace = pace or Pace()
        self._told_at, self._told_iteration, self._waited = time.monotonic(), engine.iteration, 0.0
        # whoever waits for a group to begin, or to begin again, sees at once that it has
        self._first_is_news = pace is not None
        self._snapshot_at: int | None = None
        self._watch, self._exchange_watch = InputWatch(), ExchangeWatch(share=0.3)
        self._exchanged, self._busy_at = 0.0, time.monotonic()
        self._busy_last: tuple[float | None, int, float] | None = None
        self._skips_told_at, self._skipped = float("-inf"), 0

    def run(self, until: int) -> bool:
        """Carry on to an iteration; returns False where it stopped before because it was asked to."""
        try:
            return self._run(until)
        finally:
            self._tell_skips(0.0)

    def _run(self, until: int) -> bool:
        engine, param = self.engine, self.engine.param
        while engine.iteration < until:
            if self._test_due():
                self.validate()
            engine.step()
            if engine.debug_lines:
                self._emit(DebugInfo(iteration=engine.iteration - 1, lines=engine.debug_lines))
            self._tell_progress()
            self._tell_input()
            self._tell_exchange()
            self._tell_skips(SKIPS_PACE)
            if param.snapshot > 0 and engine.iteration % param.snapshot == 0:
                self.look_at_loss()
                self.snapshot()
            if self._after_step is not None:
                self._after_step()
            if engine.stop_requested():
                return False
        return True

    def look_at_loss(self) -> None:
        """Show the last iteration's loss to whoever checks it, so that nothing is kept of a training gone wrong."""
        if self._check_loss is not None and self.engine.stepped:
            self._check_loss(self.engine.iteration - 1, self.engine.loss)

    def _test_due(self) -> bool:
        engine, interval = self.engine, self.engine.param.test_interval
        if not interval or engine.iteration % interval:
            return False
        return engine.iteration > 0 or engine.test_at_start

    def validate(self) -> None:
        """Test every test net and tell the results."""
        engine = self.engine
        for index, test in enumerate(engine.tests):
            self._emit(ValidationStarted(iteration=engine.iteration, net=index))
            began = time.monotonic()
            totals = engine.test(index)
            self._emit(
                Validation(
                    iteration=engine.iteration,
                    net=index,
                    outputs=plain_outputs(totals.means()),
                    loss_weights=output_loss_weights(test.net),
                    rows=totals.rows,
                    seconds=time.monotonic() - began,
                )
            )

    def snapshot(self) -> tuple[str, str]:
        """Write a snapshot and tell it."""
        model, state = self.engine.snapshot()
        self._snapshot_at = self.engine.iteration
        name = caffe_pb2.SolverParameter.SnapshotFormat.Name(self.engine.param.snapshot_format)
        self._emit(Snapshot(iteration=self.engine.iteration, model=model, state=state, format=name))
        return model, state

    @property
    def snapshot_is_current(self) -> bool:
        """Whether this iteration's snapshot has been written."""
        return self._snapshot_at == self.engine.iteration

    def _tell_input(self) -> None:
        """Say when training waits for its rows."""
        feeds = self.engine.feeds
        spent = [sum(times) for times in zip(*((f.wait_seconds, *f.work_seconds) for f in feeds), strict=True)]
        text = self._watch.notice(time.monotonic(), *spent)
        if text:
            self._emit(Warned(message=text, rank=self._rank))

    def _tell_exchange(self) -> None:
        """Say when training spends its time on exchanging gradients; all ranks would say the same."""
        if self._rank or not self.engine.exchange_seconds:
            return
        self._exchanged += self.engine.exchange_seconds
        text = self._exchange_watch.notice(time.monotonic(), self._exchanged)
        if text:
            self._emit(Warned(message=text))

    def _tell_skips(self, pace: float) -> None:
        """Say which rows were left out, at most once in ``pace`` seconds."""
        now = time.monotonic()
        if now - self._skips_told_at < pace:
            return
        self._skips_told_at = now
        skips = [source.skips for source in self.engine.sources]
        count = sum(each.count for each in skips)
        if count == self._skipped:
            return
        rows = [bad for each in skips for bad in each.news()]
        self._skipped = count
        if rows:
            message = in_words(count, rows)
            self._emit(RowsSkipped(message=message, rank=self._rank, count=count, rows=[bad.to_dict() for bad in rows]))

    def _tell_progress(self) -> None:
        engine = self.engine
        done = engine.iteration - 1
        displayed = engine.param.display > 0 and done % engine.param.display == 0
        now = time.monotonic()
        if not displayed and not self._first_is_news and now - self._told_at < self._pace.seconds:
            return
        self._first_is_news = False
        seconds, iterations = now - self._told_at, engine.iteration - self._told_iteration
        waited = sum(feed.wait_seconds for feed in engine.feeds)
        rows = iterations * engine.source.batch_size * engine.param.iter_size * engine.settings.world
        input_share = min(1.0, max(0.0, waited - self._waited) / seconds) if seconds > 0 else 0.0
        exchanging = engine.exchange_seconds * iterations / seconds if seconds > 0 else 0.0
        exchange_share = min(1.0 - input_share, exchanging)
        busy = self._busy_seconds(now, waited)
        self._told_at, self._told_iteration, self._waited = now, engine.iteration, waited
        self.look_at_loss()
        self._emit(
            Progress(
                rank=self._rank,
                iteration=done,
                loss=engine.loss,
                smoothed_loss=engine.smoothed_loss if engine.param.average_loss > 1 else None,
                lr=float(engine.step_functions.scalars(done)[0]),
                rows_per_second=rows / seconds if seconds > 0 else 0.0,
                input_share=input_share,
                compute_share=1.0 - input_share - exchange_share,
                communication_share=exchange_share,
                memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                outputs=engine.outputs,
                loss_weights=output_loss_weights(engine.net),
                rank_loss=engine.own_loss,
                gradient_norm=engine.gradient_norm,
                busy_seconds=busy,
            )
        )

    def _busy_seconds(self, now: float, waited: float) -> float | None:
        """Seconds an iteration that this rank was busy; asking costs a millisecond, so it is not asked every time."""
        if now - self._busy_at < BUSY_PACE:
            return None
        busy, iteration = busy_seconds(), self.engine.iteration
        last, self._busy_last, self._busy_at = self._busy_last, (busy, iteration, waited), now
        if busy is None or last is None or last[0] is None or iteration <= last[1]:
            return None
        return max(0.0, busy - last[0] + waited - last[2]) / (iteration - last[1])


def output_loss_weights(net: Net) -> dict[str, float]:
    """The weights of those outputs that count in the loss."""
    weights = {top: w for node in net.graph.nodes for top, w in zip(node.tops, node.loss_weights, strict=True)}
    return {name: weights[name] for name in net.outputs if weights.get(name)}
