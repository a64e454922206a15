"""A whole net forward and back in one compiled function, with only what training needs of it.

Going through layers one after the other, every blob and its gradient has to be written out, in Caffe's layout. Training
looks at few of them: here the rest is worked out again when somebody asks for it, from what the run began with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cosdask import device
from cosdask.nn.execute import Params, States, run_graph
from cosdask.nn.layer import Array, Shape
from cosdask.nn.net import Net
from cosdask.nn.user_code import is_user_code
from cosdask.pycaffe.blob import Store
from cosdask.pycaffe.span import Backward, Forward, Values


class Before(NamedTuple):
    """What a run begins with: weights, contents of blobs, gradients to go back from, key and states."""

    params: Params
    contents: Values
    starts: Values
    key: Array | None
    states: States


class Made(NamedTuple):
    """What a run makes: the net's outputs, running sums, states, gradients of weights, and the weighted loss."""

    outputs: Values
    sums: Params
    states: dict[str, Sequence[Array]]
    grads: Params
    loss: Array


class TrainingRun:
    """One net's, for given shapes.

    Args:
        forward: the pass through all layers.
        backward: the pass back.
        outputs: blobs that are made at once.
        loss_weights: how much each blob counts in the loss.
    """

    def __init__(
        self, forward: Forward, backward: Backward, outputs: Sequence[str], loss_weights: Mapping[str, float]
    ) -> None:
        self.forward, self.backward = forward, backward
        self.outputs = [name for name in outputs if name in forward.tops]
        self.later_tops: dict[str, Shape] = {
            name: forward.graph.blob_shapes[name] for name in forward.tops if name not in self.outputs
        }
        self._loss_weights = {name: loss_weights[name] for name in forward.tops if loss_weights[name]}
        self._function = device.compile_function(self.run)

    @classmethod
    def of(
        cls, net: Net, forward: Forward, backward: Backward, loss_weights: Mapping[str, float]
    ) -> TrainingRun | None:
        """The run; None where layers must be gone through one by one.

        Users' code may look at anything and must be called once. And where a blob from which the way back starts is
        replaced in place on a way without gradients, its last version is not the one that has the gradient.
        """
        nodes = forward.graph.nodes
        if forward.graph.shapes_depend_on_data or any(is_user_code(node.layer) for node in nodes):
            return None
        way_back = {node.index for node in backward.way}
        if any(top in backward.starts for node in nodes if node.index not in way_back for top in node.tops):
            return None
        return cls(forward, backward, net.outputs, loss_weights)

    def run(self, before: Before) -> Made:
        """See :class:`Made`; pure."""
        wanted = list(dict.fromkeys([*self.outputs, *self.backward.starts, *self._loss_weights]))

        def through(trained: Params) -> tuple[Values, tuple[Values, Params, dict[str, Sequence[Array]]]]:
            params = {**before.params, **trained}
            outcome = run_graph(self.forward.graph, params, before.contents, wanted, before.key, before.states)
            sums = {key: outcome.params[key] for key in self.forward.sums}
            return {name: outcome.blobs[name] for name in self.backward.starts}, (outcome.blobs, sums, outcome.states)

        trained = {key: before.params[key] for key in self.backward.trained}
        # around the way back too: hand-written gradients are traced after the forward pass has ended
        with jax.default_matmul_precision("highest"):
            _, pull, (blobs, sums, states) = jax.vjp(through, trained, has_aux=True)
            (grads,) = pull(before.starts)
        loss = jnp.zeros((), jnp.float32)
        for name, weight in self._loss_weights.items():
            loss = loss + jnp.float32(weight) * jnp.sum(blobs[name])
        return Made({name: blobs[name] for name in self.outputs}, sums, states, grads, loss)

    def __call__(self, before: Before) -> Made:
        """:meth:`run`, compiled."""
        made: Made = self._function(before)
        return made

    def everything(self, before: Before) -> tuple[Values, Values]:
        """All blobs and all gradients of blobs that the run passed over."""
        tops, _, _ = self.forward(before.params, before.contents, before.key, before.states)
        span, contents = self.backward, {**before.contents, **tops}
        diffs, _ = span(
            before.params,
            {name: contents[name] for name in span.plan.reads},
            before.starts,
            {index: before.key for index in span.random if before.key is not None},
            {key: before.states[key] for key in span.recurrent if key in before.states},
        )
        return tops, diffs


class Later:
    """Numbers of blobs that are worked out when the first of them is asked for, all at once."""

    def __init__(self, run: TrainingRun, before: Before) -> None:
        self._run, self._before = run, before
        self._waiting: list[tuple[str, Store, bool]] = []

    def wait(self, name: str, store: Store, gradient: bool) -> None:
        """Note where the values, or the gradient, of a blob belong."""
        self._waiting.append((name, store, gradient))

    def __call__(self) -> None:
        """Work them out; what has been replaced since stays as it is."""
        tops, diffs = self._run.everything(self._before)
        for name, store, gradient in self._waiting:
            if store.waits_for(self):
                store.set((diffs if gradient else tops)[name])
        self._waiting.clear()


__all__ = ["Before", "Later", "Made", "TrainingRun"]
