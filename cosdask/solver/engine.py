"""A training in motion: the nets, the feeds, the state, and the compiled step that carries it on by an iteration.

:class:`Engine` runs all ranks' batches in one process, in rank order. The group's ranks use a subclass that runs only
their own batches and averages with the others (:mod:`cosdask.parallel.rank`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cosdask import device
from cosdask.data import Feed, RowPlan, Shuffle, Source, get_source, window
from cosdask.errors import SolverError
from cosdask.nn.debug import DebugPass, update_lines
from cosdask.nn.execute import Params
from cosdask.nn.layers.python import user_errors
from cosdask.nn.net import Net
from cosdask.nn.shared import Shared
from cosdask.proto import caffe_pb2, initial_weights
from cosdask.solver.evaluate import Evaluator, SharedWeights, Totals
from cosdask.solver.live import TrainNet
from cosdask.solver.nets import NetSource, snapshot_prefix, test_nets, train_net
from cosdask.solver.policies import policy_step
from cosdask.solver.settings import Settings, settings_share, solver_message, solver_seed
from cosdask.solver.snapshots import history_from_blobs, model_of, read_state, snapshot_names, write_snapshot
from cosdask.solver.step import Gradient, Raw, State, TrainStep, add_gradients

#: the mapped axis of ranks that run side by side in one process
RANKS = "ranks"
#: iterations between two looks at the gradient's norm; those that are displayed have theirs too
NORM_EVERY = 10


class Metrics(NamedTuple):
    """What an iteration shows, on the device.

    Attributes:
        loss: mean over the iteration's batches: what Caffe displays and smooths.
        last_loss: of the last batch of each rank, averaged over ranks.
        outputs: of the TRAIN net in the last batch.
        norm: of the gradient, where it was asked for, else NaN.
    """

    loss: Any
    last_loss: Any
    outputs: Mapping[str, Any]
    norm: Any


@dataclass
class Test:
    """A test net with its source and its place in it."""

    net: Net
    source: Source
    evaluator: Evaluator
    weights: SharedWeights
    batches: int
    done: int = 0

    @property
    def rows(self) -> int:
        """Rows of one validation."""
        return self.batches * self.source.batch_size


class Engine:
    """Carries a training on, an iteration at a time, in this process.

    Args:
        param: the solver's message.
        settings: see :class:`Settings`.
        source: the rows to train on; default: what the TRAIN net's data layers name.
        test_sources: the rows of each test net; default: what their data layers name.

    Raises:
        SolverError, NetError, DataError, WeightsError: for what cannot work, before any step.
    """

    def __init__(
        self,
        param: caffe_pb2.SolverParameter,
        settings: Settings,
        source: Source | None = None,
        test_sources: Sequence[Source] | None = None,
    ) -> None:
        self.param, self.settings = param, settings
        self.seed = solver_seed(param, settings.seed)
        net = train_net(param, settings.path).open(seed=self.seed, precision=settings.precision)
        self.source = source if source is not None else get_source(net, phase="TRAIN", options=settings.options)
        self.step_functions = TrainStep(net, param, self.source.finish, self.seed)
        self.step_functions.rate_factor = settings.lr_factor
        self.iteration = 0
        #: seconds that one exchange of gradients with the other ranks takes, where it has been measured
        self.exchange_seconds = 0.0
        self.state = self._first_state(net)
        self._shown_params: tuple[State, Params] | None = None
        self.net = self.step_functions.net = TrainNet(net, self)
        shuffle = Shuffle.of(self.source, self.seed) if self.source.shuffled else None
        self.plan = self._row_plan(shuffle)
        self._calls_users = any(node.layer.type == "Python" for node in net.graph.nodes)
        self._test_sources = test_sources
        self._tests: list[Test] | None = None
        self._feeds: list[Feed] | None = None
        self._debug: DebugPass | None = None
        #: what ``debug_info`` shows of the last iteration
        self.debug_lines: list[str] = []
        self._metrics: Metrics | None = None
        self._norm: Any = None
        self._flying: deque[Any] = deque()
        self._losses: deque[Any] = deque(maxlen=max(1, param.average_loss))
        self._compile()

    def _row_plan(self, shuffle: Shuffle | None) -> RowPlan:
        """Who reads which rows when; where groups of other sizes came before, what they left is read first."""
        first, *later = self.settings.groups or ((0, self.settings.world, 0),)
        plan, rows = RowPlan(self.source.rows, first[1], shuffle), first[2]
        skipped = self.source.skipped(self.seed)
        for iteration, world, rows_now in later:
            plan = plan.after(skipped + iteration * rows, world, skipped + iteration * rows_now)
            rows = rows_now
        return plan

    # -- state -------------------------------------------------------------------------------------------------------

    def _first_state(self, net: Net) -> State:
        if self.settings.snapshot:
            # weights given beside a state stand in for the model that it names, as in CaffeOnSpark
            return self._restored(net, self.settings.snapshot, self.settings.weights_files)
        # what is given comes before what the solver names
        for path in self.settings.weights_files or initial_weights(self.param, self.settings.path):
            net.load(path)
        return self._place(self.step_functions.hold_frozen(self.step_functions.start(net.params)))

    def _restored(self, net: Net, path: str, weights: Sequence[str] = ()) -> State:
        saved = read_state(path)
        for file in weights or [model_of(saved, path)]:
            net.load(file)
        slots = self.step_functions.rule.slots
        history = history_from_blobs(net, saved.history, slots, path)
        self.iteration = saved.iteration
        return self._place(self.step_functions.hold_frozen(State(net.params, history)))

    def _place(self, state: State) -> State:
        """Bring a state to where the compiled step wants it."""
        return state

    def restore(self, path: str) -> None:
        """Go on from a solver state: weights, history, iteration, and the data position that belongs to it."""
        still = self.step_functions.still
        self.state = self._restored(self.net.copy(), path)
        if self.step_functions.still != still:
            self._compile()
        self._metrics = None
        self._losses.clear()
        self.close()
        for test in self._tests or []:
            test.done = self.validations_before(self.iteration)

    def snapshot(self, names: tuple[str, str] | None = None) -> tuple[str, str]:
        """Write a snapshot pair, by default where ``snapshot_prefix`` says; returns the paths of model and state."""
        names = names or self.snapshot_names()
        # Caffe stores the step that the last iteration had, which is not yet that of the next one
        current_step = policy_step(self.param, max(0, self.iteration - 1))
        state = State(self.test_params(), self.state.history)
        write_snapshot(self.net, state, self.iteration, current_step, names)
        return names

    def snapshot_names(self) -> tuple[str, str]:
        """Paths of this iteration's snapshot pair."""
        prefix = snapshot_prefix(self.param, self.settings.path)
        return snapshot_names(prefix, self.iteration, self.param.snapshot_format)

    def sync_net(self) -> Net:
        """The TRAIN net with the current weights."""
        return self.net

    def current_params(self) -> Params:
        """A copy of the current weights; a step gives the state's own buffers away."""
        if self._shown_params is None or self._shown_params[0] is not self.state:
            with jax.ensure_compile_time_eval():  # kept beyond the trace of a user's jit
                copies = {key: device.on_device(value) for key, value in self.test_params().items()}
            self._shown_params = (self.state, copies)
        return self._shown_params[1]

    def replace_params(self, params: Params) -> None:
        """Train on from other weights; history and iteration stay."""
        copies = {key: device.on_device(params[key]) for key in self.state.params}
        self.state = self._place(self.state._replace(params=copies))

    # -- stepping ----------------------------------------------------------------------------------------------------

    def _compile(self) -> None:
        functions = self.step_functions

        def fused(
            state: State, raw: Raw, batch: Any, rank: Any, rate: Any, correction: Any, look: Any
        ) -> tuple[State, Metrics]:
            gradient = functions.gradient(state.params, raw, batch, rank)
            norm = functions.norm(gradient.grads, look)
            shown = Metrics(gradient.loss, gradient.last_loss, gradient.outputs, norm)
            return functions.update(state, gradient, rate, correction), shown

        def accumulate(params: Params, total: Gradient, raw: Raw, batch: Any, rank: Any) -> Gradient:
            return add_gradients(total, functions.gradient({**params, **total.sums}, raw, batch, rank))

        def finish(state: State, ranks: list[Gradient], rate: Any, correction: Any, look: Any) -> tuple[State, Metrics]:
            mean = jax.tree.map(lambda *values: sum(values[1:], values[0]) / np.float32(len(values)), *ranks)
            norm = functions.norm(mean.grads, look)
            shown = Metrics(mean.loss / np.float32(self.param.iter_size), mean.last_loss, {}, norm)
            return functions.update(state, mean, rate, correction), shown

        def together(params: Params, raw: Raw, batch: Any, ranks: Any) -> Gradient:
            each = jax.vmap(functions.gradient, (None, 0, None, 0), axis_name=RANKS)(params, raw, batch, ranks)
            mean = jax.tree.map(lambda value: value.mean(0), each._replace(outputs={}))
            first_of_ranks = {name: value[0] for name, value in each.outputs.items()}
            return mean._replace(outputs=first_of_ranks)

        if settings_share(self.settings):
            functions.shared = self._sharing(RANKS)
        self._together = device.compile_function(together)
        self._fused = device.compile_function(fused, donate=[0])
        self._first = device.compile_function(functions.gradient)
        self._accumulate = device.compile_function(accumulate, donate=[1])
        self._finish = device.compile_function(finish, donate=[0])

    @property
    def sources(self) -> list[Source]:
        """The sources read so far: the TRAIN net's, and those of the test nets that were built."""
        return [self.source, *(test.source for test in self._tests or [])]

    def _sharing(self, axis: str) -> Shared:
        return Shared(axis, self.settings.global_batch_norm, self.settings.global_loss)

    @property
    def feeds(self) -> list[Feed]:
        """One feed a rank of this process, at the place that belongs to the iteration."""
        if self._feeds is None:
            self._feeds = [
                Feed(
                    self.source,
                    self.plan,
                    rank,
                    self.source.batch_size,
                    first_batch=self.iteration * self.param.iter_size,
                    threads=self.settings.threads,
                    seed=self.seed,
                )
                for rank in self.settings.ranks
            ]
            for feed in self._feeds:
                # who drops a solver without closing it leaves no threads behind
                feed.end_with(self)
        return self._feeds

    def step(self) -> None:
        """One iteration."""
        batches: list[list[Raw]] = [[next(feed) for _ in range(self.param.iter_size)] for feed in self.feeds]
        rate, correction = self.step_functions.scalars(self.iteration)
        self._shown_params = None
        with user_errors():
            look = self._look(batches[0][0]) if self._debugged else None
            self.state, self._metrics = self._advance(batches, rate, correction)
            self.debug_lines = look() if look is not None else []
            if self._calls_users:  # what their code raises comes out here, and no later
                jax.block_until_ready(self._metrics.loss)
        self._losses.append(self._metrics.loss)
        if self._norm_wanted:
            self._norm = self._metrics.norm
        self.iteration += 1
        # The host stays two iterations ahead of the device at most: their batches are all that waits in memory.
        self._flying.append(self._metrics.loss)
        if len(self._flying) > 2:
            jax.block_until_ready(self._flying.popleft())

    @property
    def _displayed(self) -> bool:
        return self.param.display > 0 and self.iteration % self.param.display == 0

    @property
    def _norm_wanted(self) -> np.bool_:
        """Whether the gradient's norm in this iteration is worth its time."""
        return np.bool_(self._norm is None or self._displayed or self.iteration % NORM_EVERY == 0)

    @property
    def _debugged(self) -> bool:
        """Whether ``debug_info`` wants to see this iteration: the first rank shows those that are displayed."""
        return bool(self.param.debug_info and self._displayed and self.settings.ranks[0] == 0)

    def _look(self, raw: Raw) -> Callable[[], list[str]]:
        """Look at the iteration's first batch with the weights before it; called after it, the lines to show."""
        if self._debug is None:
            self._debug = DebugPass(self.net)
        key = self.step_functions.key(np.uint32(self.iteration * self.param.iter_size), np.uint32(0))
        inputs = self.step_functions.finish(raw, xp=jnp)
        lines = self._debug.lines(self.test_params(), inputs, key)
        before = {name: np.array(weight) for name, weight in self.test_params().items()}

        def after() -> list[str]:
            now = {name: np.asarray(weight) for name, weight in self.test_params().items()}
            return [*lines, *update_lines(self.net, before, now)]

        return after

    def _advance(self, batches: list[list[Raw]], rate: Any, correction: Any) -> tuple[State, Metrics]:
        first = np.uint32(self.iteration * self.param.iter_size)
        if len(batches) == 1 and self.param.iter_size == 1:
            done: tuple[State, Metrics] = self._fused(
                self.state, batches[0][0], first, np.uint32(self.settings.ranks[0]), rate, correction, self._norm_wanted
            )
            return done
        if self.step_functions.shared is not None:
            gradients = [self._shared_gradient(batches, first)]
        else:
            gradients = [
                self._rank_gradient(raws, first, np.uint32(rank))
                for rank, raws in zip(self.settings.ranks, batches, strict=True)
            ]
        outputs = gradients[0].outputs
        ranks = [g._replace(outputs={}) for g in gradients]
        state, shown = self._finish(self.state, ranks, rate, correction, self._norm_wanted)
        return state, shown._replace(outputs=outputs)

    def _shared_gradient(self, batches: list[list[Raw]], first: np.uint32) -> Gradient:
        """The mean gradient of all ranks, which see each other's statistics: side by side in one computation."""
        ranks = np.array(self.settings.ranks, np.uint32)
        total: Gradient | None = None
        for offset in range(self.param.iter_size):
            raw = {name: np.stack([mine[offset][name] for mine in batches]) for name in batches[0][offset]}
            params = self.state.params if total is None else {**self.state.params, **total.sums}
            found = self._together(params, raw, first + np.uint32(offset), ranks)
            total = found if total is None else add_gradients(total, found)
        assert total is not None
        return total

    def _rank_gradient(self, raws: list[Raw], first: np.uint32, rank: np.uint32) -> Gradient:
        params = self.state.params
        total = self._first(params, raws[0], first, rank)
        for offset, raw in enumerate(raws[1:], start=1):
            total = self._accumulate(params, total, raw, first + np.uint32(offset), rank)
        return total

    @property
    def work(self) -> int:
        """How much has been done: iterations and batches of validation; as long as it grows, nothing hangs."""
        return self.iteration + sum(test.evaluator.batches for test in self._tests or [])

    def stop_requested(self) -> bool:
        """Whether the training shall end after this iteration; the group's engine agrees on it with the others."""
        return False

    # -- what it shows -----------------------------------------------------------------------------------------------

    @property
    def loss(self) -> float:
        """The loss of the last iteration, a mean over its batches, not smoothed."""
        return float(self._shown().loss)

    @property
    def stepped(self) -> bool:
        """Whether an iteration has been made since the start, or since the last :meth:`restore`."""
        return self._metrics is not None

    @property
    def own_loss(self) -> float | None:
        """The loss of the last iteration over this process's own batches, where other processes have theirs."""
        return None

    @property
    def gradient_norm(self) -> float | None:
        """The L2 norm of the mean gradient, before clipping and weight decay, where it was last looked at.

        That is in the iterations that are displayed, and in every tenth.
        """
        return None if self._norm is None else float(self._norm)

    @property
    def last_loss(self) -> float:
        """The loss of the last batch of the last iteration."""
        return float(self._shown().last_loss)

    def _shown(self) -> Metrics:
        if self._metrics is None:
            raise SolverError("no iteration has been made yet, so there is no loss.")
        return self._metrics

    @property
    def smoothed_loss(self) -> float:
        """The mean loss of the last ``average_loss`` iterations."""
        return float(np.mean([float(loss) for loss in self._losses]))

    @property
    def outputs(self) -> dict[str, Any]:
        """The TRAIN net's outputs in the last iteration."""
        return plain_outputs(self._metrics.outputs if self._metrics else {})

    # -- testing -----------------------------------------------------------------------------------------------------

    @property
    def tests(self) -> list[Test]:
        """The solver's test nets, built when first asked for."""
        if self._tests is None:
            self._tests = [
                self._open_test(i, named) for i, named in enumerate(test_nets(self.param, self.settings.path))
            ]
        return self._tests

    def _open_test(self, index: int, named: NetSource) -> Test:
        given = self._test_sources[index] if self._test_sources else None
        tops = given.tops if given is not None else None
        net = named.open(seed=self.seed, tops=tops, precision=self.settings.precision)
        source = given if given is not None else get_source(net, phase="TEST", options=self.settings.options)
        weights = SharedWeights(self.net, net)
        done = self.validations_before(self.iteration)
        return Test(net, source, Evaluator(net, source), weights, self.param.test_iter[index], done)

    @property
    def test_at_start(self) -> bool:
        """Whether a validation comes before the first iteration."""
        given = self.settings.test_at_start
        return self.param.test_initialization if given is None else given

    def validations_before(self, iteration: int) -> int:
        """How many validations an undisturbed run has made when this iteration's own is due."""
        interval = self.param.test_interval
        if not interval or not iteration:
            return 0
        return (iteration - 1) // interval + int(self.test_at_start)

    def test(self, index: int = 0) -> Totals:
        """The next validation of a test net: ``test_iter`` times batch rows, going on where the last one stopped."""
        if not 0 <= index < len(self.tests):
            raise SolverError(f"there is no test net {index}; the solver has {len(self.tests)}.")
        test = self.tests[index]
        first = test.source.skipped(self.seed) + test.done * test.rows
        test.done += 1
        world, rank = self._test_share()
        segments = window(first, test.rows, test.source.rows, world, rank)
        return self._combine(test, test.evaluator.totals(test.weights(self.test_params()), segments))

    def test_params(self) -> Params:
        """The weights to test with."""
        return self.state.params

    def _test_share(self) -> tuple[int, int]:
        return 1, 0

    def _combine(self, test: Test, totals: Totals) -> Totals:
        return totals

    def close(self) -> None:
        """End the feeds' threads; the next step opens new ones at its own place."""
        for feed in self._feeds or []:
            feed.close()
        self._feeds = None


def plain_outputs(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs as floats, or lists of floats for vectors."""
    arrays = {name: np.asarray(value) for name, value in outputs.items()}
    return {name: float(a) if a.ndim == 0 else a.ravel().astype(float).tolist() for name, a in arrays.items()}


__all__ = ["Engine", "Settings", "Test", "plain_outputs", "settings_share", "solver_message", "solver_seed"]
