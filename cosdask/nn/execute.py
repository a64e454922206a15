"""Running a graph: the pure function from weights and inputs to blobs.

Blobs are kept in the layout in which they were made and brought into the other one only where a layer asks for it, so
a chain of convolution-like layers never transposes (see :mod:`cosdask.nn.layer`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from cosdask.errors import NetError
from cosdask.nn.graph import Graph, Node, WeightRef
from cosdask.nn.layer import Array, Layer

Params = dict[str, Array]
Place = Literal["caffe", "last"]

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


@dataclass
class Outcome:
    """What a run made: blobs in Caffe's layout, the weights after it, and the total weighted loss."""

    blobs: dict[str, Array]
    params: Params
    loss: Array


def run_graph(
    graph: Graph, params: Params, inputs: Mapping[str, Array], wanted: Iterable[str], rng: Array | None = None
) -> Outcome:
    """Run every node of the graph in order.

    Args:
        graph: nodes built for the shapes of ``inputs``.
        params: weights by key, each in its layer's own layout.
        inputs: blobs in Caffe's layout, one for each of ``graph.inputs``.
        wanted: names of the blobs to return.
        rng: a key; each random layer gets one of its own from it.

    Raises:
        NetError: where a layer draws random numbers and ``rng`` is None.
    """
    blobs = Blobs()
    for name in graph.inputs:
        if name in inputs:  # a data layer's other tops need not be given where nothing asks for them
            blobs.put(name, jnp.asarray(inputs[name], jnp.float32))
    after = dict(params)
    loss = jnp.zeros((), jnp.float32)
    with jax.default_matmul_precision("highest"):
        for node in graph.nodes:
            with jax.named_scope(node.key):
                loss = loss + _run_node(node, after, blobs, rng)
    return Outcome({name: blobs.get(name, "caffe") for name in wanted}, after, loss)


def _run_node(node: Node, params: Params, blobs: Blobs, rng: Array | None) -> Array:
    """Run one layer, put its tops into ``blobs`` and its running sums into ``params``; return its weighted loss."""
    layer = node.layer
    place = _place(layer, node, blobs)
    bottoms = [blobs.get(name, place) for name in node.bottoms]
    bottoms = [jax.lax.stop_gradient(b) if stop else b for b, stop in zip(bottoms, node.stopped, strict=True)]
    weights = [load_weight(params, ref) for ref in node.weights]
    tops, updated = layer.forward_and_update(weights, bottoms, _layer_key(node, rng))
    for ref, weight in zip(node.weights, updated, strict=True):
        if not ref.weight.learnable:
            params[ref.key] = jax.lax.stop_gradient(weight)
    loss = jnp.zeros((), jnp.float32)
    for name, top, weight in zip(node.tops, tops, node.loss_weights, strict=True):
        blobs.put(name, top, place)
        if weight:
            loss = loss + jnp.float32(weight) * jnp.sum(top)
    return loss


def _place(layer: Layer, node: Node, blobs: Blobs) -> Place:
    if layer.layout == "any":
        return blobs.place(node.bottoms[0]) if node.bottoms else "caffe"
    return layer.layout


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


def from_caffe(array: Array, axes: Sequence[int] | None) -> Array:
    """Caffe's axes to the layout that a weight is kept in."""
    return array if axes is None else array.transpose(axes)


def to_caffe(array: Array, axes: Sequence[int] | None) -> Array:
    """The layout that a weight is kept in back to Caffe's axes."""
    return array if axes is None else array.transpose(tuple(int(axis) for axis in np.argsort(axes)))


def check_inputs(graph_inputs: Iterable[str], inputs: Mapping[str, Array]) -> None:
    """Every input that is needed must be given.

    Raises:
        NetError: naming the missing ones.
    """
    missing = [name for name in graph_inputs if name not in inputs]
    if missing:
        raise NetError(
            f"inputs missing: {', '.join(missing)}; given: {', '.join(inputs) or 'none'}. "
            "Give each as an array in Caffe's layout."
        )
