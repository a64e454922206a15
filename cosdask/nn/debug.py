"""``debug_info``: the mean absolute values of every blob, weight and gradient, in the lines that Caffe prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosdask import device
from cosdask.nn.execute import Params, run_graph
from cosdask.nn.graph import Node, WeightRef
from cosdask.nn.layer import Array
from cosdask.nn.net import Net
from cosdask.nn.precision import products

Numbers = dict[tuple[str, str, int], Any]


class _Taps:
    """Adds a zero to each bottom on its way into a layer: the gradient of that zero is the bottom's ``diff``."""

    def __init__(self, zeros: Mapping[tuple[str, int], Array] | None = None) -> None:
        self.zeros = zeros
        self.seen: dict[tuple[str, int], Array] = {}
        self.means: Numbers = {}

    def bottoms(self, node: Node, arrays: Sequence[Array]) -> list[Array]:
        """The bottoms of a layer, tapped."""
        self.seen.update({(node.key, i): array for i, array in enumerate(arrays)})
        if self.zeros is None:
            return list(arrays)
        return [array + self.zeros[node.key, i] for i, array in enumerate(arrays)]

    def tops(self, node: Node, arrays: Sequence[Array]) -> None:
        """Look at the tops of a layer."""
        self.means.update({("top", node.key, i): mean_abs(array) for i, array in enumerate(arrays)})


def mean_abs(array: Any) -> Any:
    """The mean of absolute values, 0 for a blob of none."""
    return jnp.abs(array.astype(jnp.float32)).sum() / max(1, array.size)


class DebugPass:
    """A forward and backward pass of its own that looks at everything. Compiled once.

    Layers that draw random numbers draw those of the given key; a Python data layer gives it a batch of its own.

    Args:
        net: usually of phase TRAIN; batches must have its shapes.
    """

    def __init__(self, net: Net) -> None:
        self.net = net
        self._measured = device.compile_function(self._measure)

    def lines(self, params: Params, inputs: Mapping[str, Any], rng: Array | None = None) -> list[str]:
        """The lines of one pass: ``[Forward]`` in the net's order, ``[Backward]`` in the other one.

        Caffe's own Split layers, which cosdask has not, are left out.
        """
        numbers = {key: float(value) for key, value in self._measured(params, dict(inputs), rng).items()}
        nodes = self.net.graph.nodes
        found = [f"    [Forward] Input {name} data: {numbers['input', name, 0]:g}" for name in self.net.graph.inputs]
        for node in nodes:
            found.extend(_forward_lines(node, numbers))
        for node in reversed(nodes):
            found.extend(_backward_lines(node, numbers))
        l1 = f"L1 norm = ({numbers['l1', 'data', 0]:g}, {numbers['l1', 'diff', 0]:g})"
        l2 = f"L2 norm = ({numbers['l2', 'data', 0]:g}, {numbers['l2', 'diff', 0]:g})"
        return [*found, f"    [Backward] All net params (data, diff): {l1}; {l2}"]

    def _measure(self, params: Params, inputs: Mapping[str, Array], rng: Array | None) -> Numbers:
        net, graph = self.net, self.net.graph

        def run(params: Params, taps: _Taps) -> Array:
            return run_graph(graph, params, inputs, (), rng, precision=net.precision, taps=taps).loss

        def shapes() -> dict[tuple[str, int], Array]:
            taps = _Taps()
            run(params, taps)
            return taps.seen

        def total(params: Params, zeros: Mapping[tuple[str, int], Array]) -> tuple[Array, Numbers]:
            taps = _Taps(zeros)
            return run(params, taps), taps.means

        zeros = {key: jnp.zeros(kind.shape, kind.dtype) for key, kind in jax.eval_shape(shapes).items()}
        with products(net.precision):
            (grads, diffs), numbers = jax.grad(total, (0, 1), has_aux=True)(params, zeros)
        numbers |= {("input", name, 0): mean_abs(jnp.asarray(inputs[name])) for name in graph.inputs}
        numbers |= {("bottom", key, i): mean_abs(diff) for (key, i), diff in diffs.items()}
        for key, weight in params.items():
            numbers["data", key, 0], numbers["diff", key, 0] = mean_abs(weight), mean_abs(grads[key])
        for name, tree in (("data", params), ("diff", grads)):
            flat = [array for key, array in tree.items() if graph.owned[key].weight.learnable]
            numbers["l1", name, 0] = sum((jnp.abs(array).sum() for array in flat), jnp.zeros(()))
            numbers["l2", name, 0] = jnp.sqrt(sum((jnp.square(array).sum() for array in flat), jnp.zeros(())))
        return numbers


def _forward_lines(node: Node, numbers: Numbers) -> Iterator[str]:
    name = node.layer.name
    for i, top in enumerate(node.tops):
        yield f"    [Forward] Layer {name}, top blob {top} data: {numbers['top', node.key, i]:g}"
    for i, ref in enumerate(node.weights):
        yield f"    [Forward] Layer {name}, param blob {_shown(node, i)} data: {numbers['data', ref.key, 0]:g}"


def _backward_lines(node: Node, numbers: Numbers) -> Iterator[str]:
    name = node.layer.name
    for i, bottom in enumerate(node.bottoms):
        if node.propagates[i]:
            yield f"    [Backward] Layer {name}, bottom blob {bottom} diff: {numbers['bottom', node.key, i]:g}"
    for i, ref in enumerate(node.weights):
        if ref.lr_mult != 0:
            yield f"    [Backward] Layer {name}, param blob {i} diff: {numbers['diff', ref.key, 0]:g}"


def update_lines(net: Net, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> list[str]:
    """The ``[Update]`` lines of an iteration, as Caffe worded them: each weight before it, and what was taken off."""
    found = []
    for node in net.graph.nodes:
        for i, ref in enumerate(node.weights):
            diff = float(np.abs(before[ref.key] - after[ref.key]).mean()) if before[ref.key].size else 0.0
            start = f"    [Update] Layer {node.layer.name}, param {_shown(node, i)}"
            if ref.owner == node.key:
                found.append(f"{start} data: {float(np.abs(before[ref.key]).mean()):g}; diff: {diff:g}")
            else:
                found.append(f"{start} (owned by layer {ref.owner}, param {_owner_name(ref)}) diff: {diff:g}")
    return found


def _shown(node: Node, position: int) -> str:
    """The name that the prototxt gives to a weight, else its number."""
    specs = node.layer.param.param
    return (specs[position].name if position < len(specs) else "") or str(position)


def _owner_name(ref: WeightRef) -> str:
    return ref.spec.name or ref.key.rpartition("/")[2]


__all__ = ["DebugPass", "mean_abs", "update_lines"]
