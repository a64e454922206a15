"""A rank's part of a training: its own batches, and one average with all the others in every step."""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cosdask import device
from cosdask.nn.execute import Params
from cosdask.parallel import compat
from cosdask.parallel.exchange import AXIS, average
from cosdask.solver.engine import Engine, Metrics, Test, settings_share
from cosdask.solver.evaluate import Totals
from cosdask.solver.step import Gradient, Raw, State, add_gradients

#: the step after which the exchange of gradients is timed: the same on every rank
_MEASURED = 10


class Stop(enum.IntEnum):
    """How a rank asks the group to end: a number so large that the mean over all ranks shows the strongest wish."""

    #: leave a snapshot to go on from
    SNAPSHOT = 1
    #: end as if ``max_iter`` were reached
    FINISH = 1 << 15
    #: the place is needed: leave a checkpoint, and form again elsewhere
    PREEMPT = 1 << 30
    #: the client is gone, it seems: leave a snapshot; the client forms the group again where it lives after all
    LEAVE = 1 << 45

    @classmethod
    def of_mean(cls, mean: float) -> Stop | None:
        """The strongest of up to 2^15 ranks' wishes, from their mean; None where nobody asked.

        Example:
            >>> [Stop.of_mean(wish / 1000).name for wish in Stop]  # of one rank in a thousand
            ['SNAPSHOT', 'FINISH', 'PREEMPT', 'LEAVE']
        """
        if mean <= 0:
            return None
        if mean > cls.PREEMPT:
            return cls.LEAVE
        return cls.PREEMPT if mean > cls.FINISH else cls.FINISH if mean > cls.SNAPSHOT else cls.SNAPSHOT


class Numbers(NamedTuple):
    """What changes from step to step besides the rows, on its way to the device.

    All of it goes in one array of bits: JAX's work for each array that it places costs a small net's step more than
    the array.

    Attributes:
        batch: number of the batch in the rank's stream.
        rate: the learning rate.
        correction: see :func:`cosdask.solver.rules.bias_correction`.
        stop: this rank's wish, a :class:`Stop`, or 0.
        look: whether the gradient's norm is wanted.

    Example:
        >>> bits = Numbers(batch=7, rate=0.25, correction=1.0, stop=0.0, look=True).packed()
        >>> bits.shape, bits.dtype.name
        ((1, 5), 'uint32')
        >>> [value.item() for value in Numbers.unpacked(bits)]
        [7, 0.25, 1.0, 0.0, True]
    """

    batch: Any
    rate: Any
    correction: Any
    stop: Any
    look: Any

    def packed(self) -> np.ndarray:
        """As uint32 ``[1, 5]``; floats by their bits."""
        bits = np.array([self.rate, self.correction, self.stop], np.float32).view(np.uint32)
        return np.array([[self.batch, *bits, self.look]], np.uint32)

    @classmethod
    def unpacked(cls, bits: Any) -> Numbers:
        """From what :meth:`packed` made, inside of a computation."""
        rate, correction, stop = lax.bitcast_convert_type(bits[0, 1:4], jnp.float32)
        return cls(bits[0, 0], rate, correction, stop, bits[0, 4] != 0)


class LoneEngine(Engine):
    """The engine of a group of one rank with one device: nobody to meet, so exactly the bare solver's step."""

    stopped: Stop | None = None

    def ask_to_stop(self, how: Stop) -> None:
        """Ask for the end after this iteration."""
        self.stopped = how

    def stop_requested(self) -> bool:
        """Whether the end was asked for."""
        return self.stopped is not None

    def meet(self) -> None:
        """Nobody to wait for."""


class GroupEngine(Engine):
    """An :class:`~cosdask.solver.Engine` over all devices of all processes of the group.

    Args:
        mesh: all devices, in rank order, as one axis named ``"data"``.
        process: number of this process; process 0 writes the snapshots.
        wire: number format in which gradients travel, ``"float32"`` or ``"bfloat16"``; sums stay float32.
        arguments and keywords: as of :class:`~cosdask.solver.Engine`, ``settings.ranks`` being this process's.
    """

    def __init__(self, mesh: Mesh, process: int, wire: str, *arguments: Any, **keywords: Any) -> None:
        self.mesh, self.process = mesh, process
        self._wire = jnp.bfloat16 if wire == "bfloat16" else None
        self._steps = 0
        self._sharded = NamedSharding(mesh, P(AXIS))
        self._devices = [device for device in mesh.devices.flat if device.process_index == process]
        self._replicated = NamedSharding(mesh, P())
        self._stop_asked = 0.0
        self.stopped: Stop | None = None
        self._stops: deque[Any] = deque()
        self._own_losses: Any = None
        super().__init__(*arguments, **keywords)

    # -- placing arrays ----------------------------------------------------------------------------------------------

    def _place(self, state: State) -> State:
        return jax.tree.map(self._everywhere, state)

    def _everywhere(self, value: Any) -> jax.Array:
        return jax.make_array_from_process_local_data(self._replicated, np.asarray(value))

    def _split(self, parts: list[Any]) -> jax.Array:
        """One array over all ranks from this process's parts, a part a local device."""
        return compat.place_parts(parts, self._sharded, self._devices)

    def _global(self, raws: list[Raw]) -> dict[str, jax.Array]:
        return {name: self._split([raw[name] for raw in raws]) for name in raws[0]}

    # -- stepping ----------------------------------------------------------------------------------------------------

    def _compile(self) -> None:
        functions, iter_size = self.step_functions, self.param.iter_size
        if settings_share(self.settings):
            functions.shared = self._sharing(AXIS)
        summed = {name for name in self.net.outputs if self.net.batch_axis(name) is None}

        def gradient(params: Params, raw: Raw, bits: Any) -> Gradient:
            batch, rank = Numbers.unpacked(bits).batch, lax.axis_index(AXIS).astype(jnp.uint32)
            found = functions.gradient(params, raw, batch, rank)
            return found._replace(outputs={name: found.outputs[name] for name in found.outputs if name in summed})

        def finish(state: State, found: Gradient, bits: Any) -> Any:
            numbers = Numbers.unpacked(bits)
            if self._wire is None:
                mean, stops = average((found, numbers.stop), self.mesh.size)
            else:
                # only gradients lose bits; everything else, running sums too, travels whole
                mean, stops = average((found._replace(grads={}), numbers.stop), self.mesh.size)
                mean = mean._replace(grads=average(found.grads, self.mesh.size, self._wire))
            norm = functions.norm(mean.grads, numbers.look)
            shown = Metrics(mean.loss / jnp.float32(iter_size), mean.last_loss, mean.outputs, norm)
            own = found.loss[None] / jnp.float32(iter_size)
            return functions.update(state, mean, numbers.rate, numbers.correction), shown, stops, own

        def fused(state: State, raw: Raw, bits: Any) -> Any:
            return finish(state, gradient(state.params, raw, bits), bits)

        def first(params: Params, raw: Raw, bits: Any) -> Gradient:
            return _stacked(gradient(params, raw, bits))

        def more(params: Params, total: Gradient, raw: Raw, bits: Any) -> Gradient:
            before = _unstacked(total)
            return _stacked(add_gradients(before, gradient({**params, **before.sums}, raw, bits)))

        def last(state: State, total: Gradient, bits: Any) -> Any:
            return finish(state, _unstacked(total), bits)

        whole, split = P(), P(AXIS)
        done = (whole, whole, whole, split)
        self._group_fused = self._mapped(fused, (whole, split, split), done, [0])
        self._group_first = self._mapped(first, (whole, split, split), split, [])
        self._group_more = self._mapped(more, (whole, split, split, split), split, [1])
        self._group_last = self._mapped(last, (whole, split, split), done, [0])
        self._sum = self._mapped(lambda values: lax.psum(values, AXIS)[0], (split,), whole, [])

    def _mapped(self, function: Callable[..., Any], inputs: Any, outputs: Any, donate: list[int]) -> Any:
        mapped = jax.shard_map(function, mesh=self.mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
        return device.compile_function(mapped, donate=donate)

    def _advance(self, batches: list[list[Raw]], rate: Any, step: Any) -> tuple[State, Metrics]:
        count = self.param.iter_size
        first = self.iteration * count
        raws = [self._global([rank[i] for rank in batches]) for i in range(count)]
        numbers = Numbers(first, rate, step, self._stop_asked, self._norm_wanted)
        bits = [self._split([numbers._replace(batch=first + i).packed()] * len(batches)) for i in range(count)]
        if count == 1:
            done = self._group_fused(self.state, raws[0], bits[0])
        else:
            total = self._group_first(self.state.params, raws[0], bits[0])
            for raw, these in zip(raws[1:], bits[1:], strict=True):
                total = self._group_more(self.state.params, total, raw, these)
            done = self._group_last(self.state, total, bits[0])
        state, shown, stops, self._own_losses = done
        self._stops.append(stops)
        self._steps += 1
        if self._steps == _MEASURED:
            self._measure_exchange(state)
        return state, shown

    def _measure_exchange(self, state: State) -> None:
        """Time one exchange of buffers like the gradients, alone: inside the step it cannot be told apart."""
        shapes = {key: value.shape for key, value in state.params.items()}

        def exchange(one: Any) -> Any:
            zeros = {key: jnp.broadcast_to(one[0], shape) for key, shape in shapes.items()}
            means = average(zeros, self.mesh.size, self._wire)
            return sum((value.ravel()[0] for value in means.values()), jnp.float32(0))

        run = self._mapped(exchange, (P(AXIS),), P(), [])
        ones = self._split([np.ones(1, np.float32)] * len(self.settings.ranks))
        run(ones).block_until_ready()
        began = time.perf_counter()
        run(ones).block_until_ready()
        self.exchange_seconds = time.perf_counter() - began

    @property
    def own_loss(self) -> float:
        """The loss of the last iteration over this process's own devices."""
        return float(np.mean([np.asarray(shard.data) for shard in self._own_losses.addressable_shards]))

    def ask_to_stop(self, how: Stop) -> None:
        """Ask the whole group to end; it does so together within two iterations."""
        self._stop_asked = max(self._stop_asked, float(how))

    def stop_requested(self) -> bool:
        """Whether any rank asked to stop, as all ranks know it from the step before the last.

        Every rank reads the same number for the same step, so all end after the same iteration; reading one step
        late keeps the device busy.
        """
        if len(self._stops) < 2:
            return False
        self.stopped = Stop.of_mean(float(np.asarray(self._stops.popleft())))
        return self.stopped is not None

    def meet(self) -> None:
        """Wait until every rank has come here: leaving the group lets others wait for a short while only."""
        self._sum(self._split([np.zeros(1, np.float32)] * len(self.settings.ranks))).block_until_ready()

    # -- testing and snapshots ---------------------------------------------------------------------------------------

    def snapshot(self, names: tuple[str, str] | None = None) -> tuple[str, str]:
        """Process 0 writes the pair; the others only name it."""
        return super().snapshot(names) if self.process == 0 else names or self.snapshot_names()

    def test_params(self) -> Params:
        """This process's own copy of the weights, so that testing needs nobody else."""
        return {key: value.addressable_data(0) for key, value in self.state.params.items()}

    def _test_share(self) -> tuple[int, int]:
        return jax.process_count(), jax.process_index()

    def _combine(self, test: Test, totals: Totals) -> Totals:
        """Add up all processes' totals, in pairs of float32 that together carry what float64 would."""
        shapes = test.evaluator.output_shapes()
        sums = [np.ravel(totals.sums.get(name, np.zeros(shape))) for name, shape in shapes.items()]
        mine = np.concatenate([np.array([totals.rows], np.float64), *sums])
        high = mine.astype(np.float32)
        pair = np.stack([high, (mine - high).astype(np.float32)])[None]
        others = np.zeros_like(pair)
        local = [pair] + [others] * (len(self.settings.ranks) - 1)
        high, low = np.asarray(self._sum(self._split(local))).astype(np.float64)
        return _totals(high + low, shapes)


def _stacked(tree: Any) -> Any:
    """Give every array an axis for the rank, so that each rank keeps its own."""
    return jax.tree.map(lambda value: value[None], tree)


def _unstacked(tree: Any) -> Any:
    return jax.tree.map(lambda value: value[0], tree)


def _totals(values: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> Totals:
    sums, place = {}, 1
    for name, shape in shapes.items():
        size = int(np.prod(shape, dtype=int))
        sums[name] = values[place : place + size].reshape(shape)
        place += size
    return Totals(rows=round(values[0]), sums=sums)
