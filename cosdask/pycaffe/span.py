"""A run of a net's layers, from one to another, forward and backward, compiled once for the shapes that it reads.

Caffe goes through layers one by one and leaves what each makes in its blobs, so a call may begin and end at any layer
and take up what lies there. Here a span of layers becomes one compiled function of the blobs that it reads. Backward
starts from the blobs' contents too; only values that a layer has replaced in place are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from cosdask import device
from cosdask.nn.execute import Blobs, Params, Place, Recurrent, States, first_states, load_weight, run_graph
from cosdask.nn.graph import INPUT_TYPES, Graph, GraphBuilder, Node
from cosdask.nn.layer import Array, Shape
from cosdask.nn.layers.python import user_errors
from cosdask.nn.net import Net
from cosdask.nn.user_code import is_user_code
from cosdask.proto import caffe_pb2

Layers = Sequence[caffe_pb2.LayerParameter]
Values = dict[str, Array]
#: the key that each random layer's call was made with
Keys = Mapping[int, Array]
#: a blob as a layer reads it: (the layer that made that version, its name); None stands for what the blob holds now
Version = tuple[int, str] | None


def forward_reads(layers: Layers, chosen: Iterable[int]) -> list[str]:
    """Blobs that a forward pass through some layers takes up from outside of them."""
    made: set[str] = set()
    reads: dict[str, None] = {}
    for index in chosen:
        reads.update(dict.fromkeys(name for name in layers[index].bottom if name not in made))
        made.update(layers[index].top)
    return list(reads)


@dataclass
class BackwardPlan:
    """What a backward pass through some layers needs, found from the prototxt alone.

    Attributes:
        chosen: the layers that it goes through.
        again: layers whose forward pass is made again, as their tops were replaced in place.
        versions: which version of a bottom each layer reads, by (layer, bottom).
        reads: blobs whose contents are read.
    """

    chosen: list[int]
    again: set[int] = field(default_factory=set)
    versions: dict[tuple[int, str], Version] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, layers: Layers, chosen: Iterable[int]) -> BackwardPlan:
        """The plan for going back through the layers ``chosen``, given in ascending order."""
        plan = cls([index for index in chosen if layers[index].type not in INPUT_TYPES])
        writers: dict[str, list[int]] = {}
        for index, layer in enumerate(layers):
            for name in layer.top:
                writers.setdefault(name, []).append(index)
        open_layers = list(plan.chosen)
        reads: dict[str, None] = {}
        while open_layers:
            index = open_layers.pop()
            for name in layers[index].bottom:
                version = _version(layers, writers[name], index, name)
                plan.versions[index, name] = version
                if version is None:
                    reads[name] = None
                elif version[0] not in plan.again:
                    plan.again.add(version[0])
                    open_layers.append(version[0])
        plan.reads = list(reads)
        return plan


def _version(layers: Layers, writers: Sequence[int], reader: int, name: str) -> Version:
    """Which version of a blob a layer reads; None where that is what the blob still holds after a forward pass."""
    if max(writers) < reader:
        return None
    before = [writer for writer in writers if writer < reader]
    # what data came in and was replaced in place is gone
    return None if not before or not layers[before[-1]].bottom else (before[-1], name)


class Forward:
    """The forward pass through some layers, for given shapes.

    Args:
        net: the net.
        chosen: indices of the layers; those that are fed from outside take no part.
        shapes: of all blobs that exist before it.
    """

    def __init__(self, net: Net, chosen: Sequence[int], shapes: Mapping[str, Shape]) -> None:
        own = [index for index in chosen if net.layers[index].type not in INPUT_TYPES]
        self.reads = forward_reads(net.layers, own)
        self.graph = _build(net, own, shapes)
        self.graph.inputs = {name: shapes[name] for name in self.reads}
        self.tops = list(dict.fromkeys(top for node in self.graph.nodes for top in node.tops))
        self.random = [node.index for node in self.graph.nodes if node.layer.random]
        self.weights = {ref.key for node in self.graph.nodes for ref in node.weights}
        self.sums = [ref.key for node in self.graph.nodes for ref in node.weights if not ref.weight.learnable]
        self.first_states = first_states(self.graph)
        self._function = _compiled(self.run, self.graph)

    def run(
        self, params: Params, contents: Values, rng: Array | None, states: States
    ) -> tuple[Values, Params, dict[str, Sequence[Array]]]:
        """The tops, the running sums after them, and the states of recurrent layers; pure."""
        outcome = run_graph(self.graph, params, contents, self.tops, rng, states)
        return outcome.blobs, {key: outcome.params[key] for key in self.sums}, outcome.states

    def __call__(
        self, params: Params, contents: Values, rng: Array | None, states: States
    ) -> tuple[Values, Params, dict[str, Sequence[Array]]]:
        """:meth:`run`, compiled."""
        found: tuple[Values, Params, dict[str, Sequence[Array]]] = self._function(params, contents, rng, states)
        return found


class Backward:
    """The backward pass through some layers, for given shapes.

    Attributes:
        starts: blobs whose gradients it starts from.
        ends: blobs whose gradients it makes.
        way: the layers that it goes through, in that order.
        trained: weights whose gradients it makes.
    """

    def __init__(self, net: Net, plan: BackwardPlan, shapes: Mapping[str, Shape]) -> None:
        self.plan = plan
        graph = _build(net, sorted({*plan.chosen, *plan.again}), shapes)
        self._nodes = graph.nodes
        self.weights = {ref.key for node in self._nodes for ref in node.weights}
        chosen = set(plan.chosen)
        self.way = [node for node in reversed(self._nodes) if node.index in chosen and _has_gradient(node)]
        self.trained = list(dict.fromkeys(ref.key for node in self.way for ref in node.weights if ref.trained))
        self.random = [node.index for node in self._nodes if node.layer.random]
        self.recurrent = [node.key for node in self._nodes if isinstance(node.layer, Recurrent)]
        self.starts, self.ends = self._trace()
        self._function = _compiled(self.run, graph)

    def _trace(self) -> tuple[list[str], list[str]]:
        starts: dict[str, None] = {}
        ends: dict[str, None] = {}
        for node in self.way:
            starts.update(dict.fromkeys(top for top in node.tops if top not in ends))
            ends.update(dict.fromkeys(b for b, stop in zip(node.bottoms, node.stopped, strict=True) if not stop))
        return list(starts), list(ends)

    def run(self, params: Params, contents: Values, diffs: Values, keys: Keys, states: States) -> tuple[Values, Params]:
        """Gradients of bottoms in Caffe's layout, and of weights in the layout in which they are kept; pure."""
        with jax.default_matmul_precision("highest"):
            values = self._values_again(params, contents, keys, states)
            blobs = Blobs()
            for name in self.starts:
                blobs.put(name, diffs[name])
            grads: Params = {}
            for node in self.way:
                with jax.named_scope(f"{node.key}/backward"):
                    self._back(node, params, values, blobs, grads, keys, states)
        return {name: blobs.get(name, "caffe") for name in self.ends}, grads

    def __call__(
        self, params: Params, contents: Values, diffs: Values, keys: Keys, states: States
    ) -> tuple[Values, Params]:
        """:meth:`run`, compiled."""
        found: tuple[Values, Params] = self._function(params, contents, diffs, keys, states)
        return found

    def _values_again(self, params: Params, contents: Values, keys: Keys, states: States) -> _Versions:
        """The versions of blobs that the layers read: what blobs hold, and what was replaced in place."""
        values = _Versions(self.plan, contents)
        for node in self._nodes:
            if node.index in self.plan.again:
                place: Place = "caffe" if node.layer.layout == "any" else node.layer.layout
                tops = run_layer(node, params, values.bottoms(node, place), keys, states)
                for name, top in zip(node.tops, tops, strict=True):
                    values.put((node.index, name), top, place)
        return values

    def _back(
        self,
        node: Node,
        params: Params,
        values: _Versions,
        diffs: Blobs,
        grads: Params,
        keys: Keys,
        states: States,
    ) -> None:
        place: Place = diffs.place(node.tops[0]) if node.layer.layout == "any" else node.layer.layout
        own = {ref.key: params[ref.key] for ref in node.weights if ref.trained}

        def forward(trained: Params, bottoms: list[Array]) -> list[Array]:
            return run_layer(node, {**params, **trained}, bottoms, keys, states)

        _, pull = jax.vjp(forward, own, values.bottoms(node, place))
        of_weights, of_bottoms = pull([diffs.get(top, place) for top in node.tops])
        for key, grad in of_weights.items():
            grads[key] = grads[key] + grad if key in grads else grad
        for name, stop, diff in zip(node.bottoms, node.stopped, of_bottoms, strict=True):
            if not stop:
                diffs.put(name, diff, place)


class _Versions:
    """Blobs by version, each brought into the layout in which a layer wants it."""

    def __init__(self, plan: BackwardPlan, contents: Values) -> None:
        self._plan = plan
        self._now, self._replaced = Blobs(), Blobs()
        for name, array in contents.items():
            self._now.put(name, array)

    def put(self, version: tuple[int, str], array: Array, place: Place) -> None:
        self._replaced.put(_label(version), array, place)

    def bottoms(self, node: Node, place: Place) -> list[Array]:
        found = []
        for name in node.bottoms:
            version = self._plan.versions[node.index, name]
            found.append(self._now.get(name, place) if version is None else self._replaced.get(_label(version), place))
        return found


def _label(version: tuple[int, str]) -> str:
    return f"{version[0]}/{version[1]}"


def run_layer(node: Node, params: Params, bottoms: Sequence[Array], keys: Keys, states: States) -> list[Array]:
    """One layer's tops, from the key and the state that its last forward pass began with."""
    weights = [load_weight(params, ref) for ref in node.weights]
    layer = node.layer
    if node.key in states and isinstance(layer, Recurrent):
        return layer.forward_with_state(weights, bottoms, states[node.key])[0]
    key = jax.random.fold_in(keys[node.index], node.index) if layer.random else None
    return layer.forward_and_update(weights, bottoms, key)[0]


def _has_gradient(node: Node) -> bool:
    return any(ref.trained for ref in node.weights) or not all(node.stopped)


def _build(net: Net, chosen: Sequence[int], shapes: Mapping[str, Shape]) -> Graph:
    return GraphBuilder(net.layers, net.phase, net.inputs, net.graph).build(chosen, shapes)


def _compiled(function: Callable[..., Any], graph: Graph) -> Callable[..., Any]:
    compiled: Callable[..., Any] = function if graph.shapes_depend_on_data else device.compile_function(function)
    if not any(is_user_code(node.layer) for node in graph.nodes):
        return compiled

    def waiting(*arguments: Any) -> Any:
        # what the user's code raises comes out here, not where somebody looks at a blob later
        with user_errors():
            found = jax.block_until_ready(compiled(*arguments))
            jax.effects_barrier()
            return found

    return waiting


__all__ = ["Backward", "BackwardPlan", "Forward", "forward_reads", "run_layer"]
