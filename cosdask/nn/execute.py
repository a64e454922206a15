"""Running a graph: the pure function from weights and inputs to blobs.

Blobs are kept in the layout in which they were made and brought into the other one only where a layer asks for it, so
a chain of convolution-like layers never transposes (see :mod:`cosdask.nn.layer`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from cosdask.nn.graph import Graph, Node, WeightRef
from cosdask.nn.layer import Array
from cosdask.nn.precision import cast_in, cast_out, products

Params = dict[str, Array]
#: the state of each recurrent layer, by the layer's key
States = Mapping[str, Sequence[Array]]
Place = Literal["caffe", "last"]
Kept = TypeVar("Kept", Array, np.ndarray)

_TO: dict[Place, tuple[int, ...]] = {"last": (0, 2, 3, 1), "caffe": (0, 3, 1, 2)}


class Blobs:
    """Blobs by name, each in the layouts in which it has been needed so far."""

    def __init__(self) -> None:
        self._arrays: dict[str, dict[Place, Array]] = {}

    def put(self, name: str, array: Array, place: Place = "caffe") -> None:
        """Set a blob, forgetting what an in-place layer has replaced."""
        self._arrays[name] = {place: array}

    def get(self, name: str, place: Place) -> Array:
        """The blob in the wanted layout; only blobs of 4 axes have two."""
        kept = self._arrays[name]
        if place not in kept:
            (array,) = kept.values()
            kept[place] = jnp.transpose(array, _TO[place]) if array.ndim == 4 else array
        return kept[place]

    def place(self, name: str) -> Place:
        """The layout in which the blob was made."""
        return next(iter(self._arrays[name]))


@runtime_checkable
class Recurrent(Protocol):
    """A layer with a state that may go on from one call to the next."""

    def initial_state(self, batch: int) -> list[Array]:
        """What the first call starts from."""

    def forward_with_state(
        self, weights: Sequence[Array], bottoms: Sequence[Array], state: Sequence[Array]
    ) -> tuple[list[Array], list[Array]]:
        """The tops, and the state after them."""


class Taps(Protocol):
    """Looks at a run, layer by layer."""

    def bottoms(self, node: Node, arrays: Sequence[Array]) -> list[Array]:
        """What the layer is given in place of its bottoms."""

    def tops(self, node: Node, arrays: Sequence[Array]) -> None:
        """Told what the layer gives."""


@dataclass
class Outcome:
    """What a run made: blobs in Caffe's layout, weights and states after it, and the total weighted loss."""

    blobs: dict[str, Array]
    params: Params
    loss: Array
    states: dict[str, Sequence[Array]] = field(default_factory=dict)


def first_states(graph: Graph) -> dict[str, Sequence[Array]]:
    """The states of a graph's recurrent layers before the first call; layers without one are left out."""
    found = {
        node.key: node.layer.initial_state(node.layer.bottom_shapes[0][1])
        for node in graph.nodes
        if isinstance(node.layer, Recurrent)
    }
    return {key: state for key, state in found.items() if state}


def run_graph(
    graph: Graph,
    params: Params,
    inputs: Mapping[str, Array],
    wanted: Iterable[str],
    rng: Array | None = None,
    states: States | None = None,
    precision: str = "float32",
    taps: Taps | None = None,
) -> Outcome:
    """Run every node of the graph in order.

    Args:
        graph: nodes built for the shapes of ``inputs``.
        params: weights by key, each in its layer's own layout.
        inputs: blobs in Caffe's layout, one for each of ``graph.inputs``.
        wanted: names of the blobs to return.
        rng: a key; each random layer gets one of its own from it.
        states: where recurrent layers go on from; those not named start from zero.
        precision: one of :data:`cosdask.nn.precision.PRECISIONS`; the blobs returned are float32 in each.
        taps: looks at, and may change, what goes into each layer.

    Raises:
        NetError: where a layer draws random numbers and ``rng`` is None.
    """
    blobs = Blobs()
    for name in graph.inputs:
        if name in inputs:  # a data layer's other tops need not be given where nothing asks for them
            blobs.put(name, jnp.asarray(inputs[name], jnp.float32))
    outcome = Outcome({}, dict(params), jnp.zeros((), jnp.float32), dict(states or {}))
    varies = graph.shapes_depend_on_data
    with products(precision):
        for node in graph.nodes:
            node = _refitted(node, blobs) if varies else node
            with jax.named_scope(node.key):
                outcome.loss = outcome.loss + _run_node(node, outcome, blobs, rng, precision, taps)
    outcome.blobs = {name: blobs.get(name, "caffe").astype(jnp.float32) for name in wanted}
    return outcome


def _refitted(node: Node, blobs: Blobs) -> Node:
    """A node for as many rows as its bottoms have: behind a layer that decides that, Caffe reshapes the others."""
    shapes = [tuple(blobs.get(name, "caffe").shape) for name in node.bottoms]
    if shapes == node.layer.bottom_shapes or any(0 in shape for shape in shapes):
        return node
    layer = node.layer.rebuilt(shapes)
    layer.set_propagation(node.propagates)
    return replace(node, layer=layer)


def _run_node(
    node: Node, outcome: Outcome, blobs: Blobs, rng: Array | None, precision: str, taps: Taps | None
) -> Array:
    """Run one layer, put its tops into ``blobs``, its running sums and state into ``outcome``; its weighted loss."""
    layer = node.layer
    place = place_of(node, blobs)
    given = [blobs.get(name, place) for name in node.bottoms]
    if taps is not None:
        given = taps.bottoms(node, given)
    given = [jax.lax.stop_gradient(b) if stop else b for b, stop in zip(given, node.stopped, strict=True)]
    weights, bottoms = cast_in(layer, [load_weight(outcome.params, ref) for ref in node.weights], given, precision)
    if node.key in outcome.states and isinstance(layer, Recurrent):
        tops, outcome.states[node.key] = layer.forward_with_state(weights, bottoms, outcome.states[node.key])
    else:
        tops, updated = layer.forward_and_update(weights, bottoms, _layer_key(node, rng))
        for ref, weight in zip(node.weights, updated, strict=True):
            if not ref.weight.learnable:
                outcome.params[ref.key] = jax.lax.stop_gradient(weight)
    if taps is not None:
        taps.tops(node, tops)
    loss = jnp.zeros((), jnp.float32)
    for name, top, factor in zip(node.tops, cast_out(layer, tops, given), node.loss_weights, strict=True):
        blobs.put(name, top, place)
        if factor:
            loss = loss + jnp.float32(factor) * jnp.sum(top.astype(jnp.float32))
    return loss


def place_of(node: Node, blobs: Blobs) -> Place:
    """The layout in which a layer runs."""
    if node.layer.layout == "any":
        return blobs.place(node.bottoms[0]) if node.bottoms else "caffe"
    return node.layer.layout


def _layer_key(node: Node, rng: Array | None) -> Array | None:
    if not node.layer.random:
        return None
    if rng is None:
        node.layer.fail("draws random numbers in this phase: pass rng=jax.random.key(seed).")
    return jax.random.fold_in(rng, node.index)


def load_weight(params: Params, ref: WeightRef) -> Array:
    """The weight as the layer wants it; a sharer of another kind gets the owner's numbers in its own layout."""
    array = params[ref.key]
    if ref.weight.axes != ref.owner_weight.axes or ref.weight.shape != ref.owner_weight.shape:
        array = from_caffe(to_caffe(array, ref.owner_weight.axes).reshape(ref.weight.shape), ref.weight.axes)
    return array if ref.trained else jax.lax.stop_gradient(array)


def from_caffe(array: Kept, axes: Sequence[int] | None) -> Kept:
    """Caffe's axes to the layout that a weight is kept in."""
    return array if axes is None else array.transpose(tuple(axes))


def to_caffe(array: Kept, axes: Sequence[int] | None) -> Kept:
    """The layout that a weight is kept in back to Caffe's axes."""
    return array if axes is None else array.transpose(tuple(int(axis) for axis in np.argsort(axes)))
