"""Runs of a net's layers over its blobs: what is read, what is kept between calls, and what is compiled once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosdask.nn import Net as PureNet
from cosdask.nn.graph import INPUT_TYPES, loss_weights
from cosdask.nn.layer import REGISTRY, Array, Shape
from cosdask.pycaffe.blob import Blob, Store
from cosdask.pycaffe.feeding import ArrayReader, RowReader, make_reader
from cosdask.pycaffe.span import Backward, BackwardPlan, Forward, forward_reads
from cosdask.pycaffe.training_run import Before, Later, TrainingRun
from cosdask.pycaffe.weights import Weights


class Runs:
    """Carries a net's layers out, forward and backward, from the blobs and into them.

    Args:
        net: the net beneath.
        blobs: all blobs, in Caffe's order.
        weights: the net's.
        seed: of random layers and data layers.

    Attributes:
        loss_weights: how much each blob counts in the loss.
    """

    def __init__(self, net: PureNet, blobs: Mapping[str, Blob], weights: Weights, seed: int) -> None:
        self._net, self._blobs, self._weights, self._seed = net, blobs, weights, seed
        self._draws = 0
        self.loss_weights: dict[str, float] = dict.fromkeys(blobs, 0.0)
        self._set_loss_weights()
        self._readers: dict[int, RowReader | ArrayReader] = {}
        self._spans: dict[Any, Any] = {}
        self._plans: dict[tuple[int, int], BackwardPlan] = {}
        self._keys: dict[int, Array] = {}
        self._states: dict[str, Sequence[Array]] = {}
        self._states_before: dict[str, Sequence[Array]] = {}

    def _set_loss_weights(self) -> None:
        for layer in self._net.layers:
            cls = REGISTRY.get(layer.type)
            for top, weight in zip(layer.top, loss_weights(layer, bool(cls and cls.is_loss)), strict=True):
                self.loss_weights[top] = weight
                if weight:
                    self._blobs[top].gradients.fill(weight)

    # -- one after the other, as Caffe goes --------------------------------------------------------------------------

    def forward(self, first: int, last: int) -> None:
        """Run the layers of these indices, both included; data layers take their next batch."""
        self._read(first, last)
        self._forward(first, last)

    def _forward(self, first: int, last: int) -> None:
        span = self._forward_span(first, last)
        states = self._states_for(span)
        key = self._next_key() if span.random else None
        contents = self._contents(span.reads)
        tops, sums, after = span(self._weights.current(span.weights), contents, key, states)
        self._went(span, key, states, after)
        for name, array in tops.items():
            self._blobs[name].put(array)
        self._put_sums(sums)

    def backward(self, last: int, first: int) -> None:
        """Go back through the layers of these indices, from the gradients that blobs hold."""
        span = self._backward_span(first, last)
        for index in span.random:
            if index not in self._keys:
                self._keys[index] = self._next_key()
        diffs, grads = span(
            self._weights.current(span.weights),
            self._contents(span.plan.reads),
            self._starts(span),
            {index: self._keys[index] for index in span.random},
            {key: self._states_before[key] for key in span.recurrent if key in self._states_before},
        )
        for name, array in diffs.items():
            self._blobs[name].put_diff(array)
        self._add(grads)

    def loss(self, tops: Iterable[str]) -> float:
        """The weighted sum of these blobs."""
        weighted = [(self.loss_weights[top], self._blobs[top]) for top in tops if self.loss_weights[top]]
        return float(sum(weight * float(jnp.sum(blob.values.device())) for weight, blob in weighted))

    # -- all layers at once, as training goes ------------------------------------------------------------------------

    def forward_backward(self) -> Array:
        """All layers forward and back, as a solver goes through them; the weighted loss.

        Blobs in the middle of the net are worked out when somebody looks at them: training needs only the gradients of
        the weights. Where somebody holds arrays of such blobs, which have to show each batch, or layers call a user's
        code, every layer leaves its numbers at once.
        """
        last = len(self._net.layers) - 1
        self._read(0, last)
        run = self._training_run(last)
        if run is not None and not any(store.held for store in self._passed_over(run)):
            return self._train(run)
        self._forward(0, last)
        loss = self.loss(dict.fromkeys(top for layer in self._net.layers for top in layer.top))
        self.backward(last, 0)
        return jnp.float32(loss)

    def _train(self, run: TrainingRun) -> Array:
        span = run.forward
        states = self._states_for(span)
        key = self._next_key() if span.random else None
        weights = self._weights.current(span.weights)
        before = Before(weights, self._contents(span.reads), self._starts(run.backward), key, states)
        made = run(before)
        self._went(span, key, states, made.states)
        later = Later(run, before)
        for name in run.outputs:
            self._blobs[name].put(made.outputs[name])
        for name, shape in run.later_tops.items():
            later.wait(name, self._blobs[name].put_later(shape, later), gradient=False)
        for name in run.backward.ends:
            later.wait(name, self._blobs[name].put_diff_later(later), gradient=True)
        self._put_sums(made.sums)
        self._add(made.grads)
        return made.loss

    def _training_run(self, last: int) -> TrainingRun | None:
        """What runs the whole net at once for the shapes at hand; None where that is not possible."""
        forward = self._forward_span(0, last)

        def make() -> TrainingRun | None:
            shapes = {**self.shapes(), **forward.graph.blob_shapes}
            backward = Backward(self._net, self._plan(0, last), shapes)
            return TrainingRun.of(self._net, forward, backward, self.loss_weights)

        found: TrainingRun | None = self._span("training", 0, last, lambda: forward.reads, make)
        return found

    def _passed_over(self, run: TrainingRun) -> Iterator[Store]:
        """Where the numbers belong that the run does not make."""
        for name in run.later_tops:
            yield self._blobs[name].values
        for name in run.backward.ends:
            yield self._blobs[name].gradients

    # -- what runs read and leave ------------------------------------------------------------------------------------

    def _read(self, first: int, last: int) -> None:
        for index in self._fed(first, last):
            for top, rows in self.reader(index).next().items():
                self._blobs[top].put(jax.device_put(np.asarray(rows, np.float32)))

    def _fed(self, first: int, last: int) -> Iterator[int]:
        """Data layers of these indices that have a reader."""
        types = [layer.type for layer in self._net.layers[first : last + 1]]
        return (first + i for i, kind in enumerate(types) if kind in INPUT_TYPES and kind != "Input")

    def reader(self, index: int) -> RowReader | ArrayReader:
        """What reads the batches of a data layer."""
        if index not in self._readers:
            layer = self._net.layers[index]
            self._readers[index] = make_reader(layer, self._net.phase, self._net.folder, self._seed)
        return self._readers[index]

    def seek(self, batch: int) -> None:
        """Let the data layers go on with this batch, counted from 0, of their endless streams; random layers too."""
        self._draws = batch
        for index in self._fed(0, len(self._net.layers) - 1):
            self.reader(index).seek(batch)

    def _contents(self, names: Iterable[str]) -> dict[str, Array]:
        return {name: self._blobs[name].values.device() for name in names}

    def _starts(self, span: Backward) -> dict[str, Array]:
        return {name: self._blobs[name].gradients.device() for name in span.starts}

    def _next_key(self) -> Array:
        self._draws += 1
        return jax.random.fold_in(jax.random.key(self._seed), self._draws)

    def _states_for(self, span: Forward) -> dict[str, Sequence[Array]]:
        """The states that the last call left, where their shapes still fit."""
        found = {}
        for key, first in span.first_states.items():
            kept = self._states.get(key, ())
            fits = [a.shape for a in kept] == [a.shape for a in first]
            found[key] = kept if fits else first
        return found

    def _went(
        self, span: Forward, key: Array | None, before: dict[str, Sequence[Array]], after: dict[str, Sequence[Array]]
    ) -> None:
        if key is not None:
            self._keys.update(dict.fromkeys(span.random, key))
        self._states_before.update(before)
        self._states.update(after)

    def _put_sums(self, sums: dict[str, Array]) -> None:
        for key, array in sums.items():
            self._weights.owned[key].put(array)

    def _add(self, grads: dict[str, Array]) -> None:
        for key, array in grads.items():
            store = self._weights.owned[key].gradients
            store.set(array if store.is_zero else _add(store.device(), array))

    # -- what was compiled -------------------------------------------------------------------------------------------

    def shapes(self) -> dict[str, Shape]:
        """The shapes that blobs have now."""
        return {name: blob.shape for name, blob in self._blobs.items()}

    def reshape(self) -> None:
        """Bring all blobs to the shapes that follow from those of the inputs."""
        shapes = self.shapes()
        span = self._forward_span(0, len(self._net.layers) - 1)
        for name, shape in span.graph.blob_shapes.items():
            if shape != shapes[name]:
                self._blobs[name].reshape(*shape)

    def _span(
        self, kind: str, first: int, last: int, reads: Callable[[], Sequence[str]], make: Callable[[], Any]
    ) -> Any:
        """What was built for these layers and the shapes that they read, or what ``make`` builds now."""
        place = (kind, first, last)
        if place not in self._spans:
            self._spans[place] = (tuple(reads()), {})
        names, built = self._spans[place]
        shapes = tuple(self._blobs[name].shape for name in names)
        if shapes not in built:
            built[shapes] = make()
        return built[shapes]

    def _forward_span(self, first: int, last: int) -> Forward:
        layers, chosen = self._net.layers, range(first, last + 1)
        computed = (index for index in chosen if layers[index].type not in INPUT_TYPES)
        span: Forward = self._span(
            "forward",
            first,
            last,
            lambda: forward_reads(layers, computed),
            lambda: Forward(self._net, chosen, self.shapes()),
        )
        return span

    def _plan(self, first: int, last: int) -> BackwardPlan:
        if (first, last) not in self._plans:
            self._plans[first, last] = BackwardPlan.of(self._net.layers, range(first, last + 1))
        return self._plans[first, last]

    def _backward_span(self, first: int, last: int) -> Backward:
        plan = self._plan(first, last)
        span: Backward = self._span(
            "backward", first, last, lambda: plan.reads, lambda: Backward(self._net, plan, self.shapes())
        )
        return span


@jax.jit
def _add(total: Array, more: Array) -> Array:
    return total + more


__all__ = ["Runs"]
