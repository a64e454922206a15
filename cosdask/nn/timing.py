"""How long each layer takes, forward and backward, each compiled by itself; and the whole net, compiled as one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosdask import device
from cosdask.nn.execute import Blobs, load_weight, place_of
from cosdask.nn.graph import INPUT_TYPES, Node, layer_keys
from cosdask.nn.layer import Array
from cosdask.nn.net import Net
from cosdask.nn.precision import cast_in, cast_out, products


@dataclass
class LayerTime:
    """A layer's seconds a pass; 0 where it computes nothing."""

    name: str
    forward: float = 0.0
    backward: float = 0.0


@dataclass
class NetTimes:
    """What :func:`time_net` measured, in seconds.

    Attributes:
        layers: in the net's order.
        rounds: of each iteration, forward and backward through the whole net.
        forward: mean of the whole net's forward pass.
        both: mean of its forward and backward pass.
        loss: the total weighted loss of the first pass.
    """

    layers: list[LayerTime] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    forward: float = 0.0
    both: float = 0.0
    loss: float = 0.0


def time_net(net: Net, inputs: Mapping[str, np.ndarray], iterations: int) -> NetTimes:
    """Time every layer and the whole net, after a first round that compiles and is not counted.

    Args:
        net: usually of phase TRAIN.
        inputs: a batch.
        iterations: how often each is run.
    """
    key = jax.random.key(0)
    times = NetTimes()
    blobs = Blobs()
    for name, array in inputs.items():
        blobs.put(name, jnp.asarray(array, jnp.float32))
    nodes = {node.key: node for node in net.graph.nodes}
    with products(net.precision):
        for name, param in zip(layer_keys(net.layers), net.layers, strict=True):
            times.layers.append(LayerTime(name))
            if param.type not in INPUT_TYPES:
                _time_node(nodes[name], net, blobs, key, iterations, times.layers[-1])
        _time_whole(net, inputs, key, iterations, times)
    return times


def _time_node(node: Node, net: Net, blobs: Blobs, key: Array, iterations: int, line: LayerTime) -> None:
    """One layer's passes; its tops go into ``blobs`` for the layers after it."""
    layer, place = node.layer, place_of(node, blobs)
    given = [blobs.get(name, place) for name in node.bottoms]
    weights, bottoms = cast_in(layer, [load_weight(net.params, ref) for ref in node.weights], given, net.precision)
    rng = jax.random.fold_in(key, node.index) if layer.random else None

    def run(weights: Any, bottoms: Any) -> Any:
        return layer.forward(weights, bottoms, rng)

    if getattr(layer, "data_dependent_shapes", False):
        tops, line.forward = _timed(lambda: run(weights, bottoms), iterations)
    else:
        forward = device.compile_function(run)
        tops, line.forward = _timed(lambda: forward(weights, bottoms), iterations)
        if any(node.propagates) or any(ref.trained for ref in node.weights):
            _, pull = device.compile_function(lambda w, b: jax.vjp(run, w, b))(weights, bottoms)
            backward = device.compile_function(lambda pull, diffs: pull(diffs))
            diffs = [jnp.ones_like(top) for top in tops]
            line.backward = _timed(lambda: backward(pull, diffs), iterations)[1]
    for name, top in zip(node.tops, cast_out(layer, tops, given), strict=True):
        blobs.put(name, top, place)


def _time_whole(net: Net, inputs: Mapping[str, np.ndarray], key: Array, iterations: int, times: NetTimes) -> None:
    if net.graph.shapes_depend_on_data:
        return  # such a net is never compiled as one
    given = {name: jnp.asarray(array, jnp.float32) for name, array in inputs.items()}
    params = net.params
    forward = device.compile_function(net.loss)
    both = device.compile_function(jax.value_and_grad(net.loss, has_aux=True))
    (loss, _), times.forward = _timed(lambda: forward(params, given, key), iterations)
    times.loss = float(loss)
    jax.block_until_ready(both(params, given, key))
    for _ in range(iterations):
        times.rounds.append(_timed(lambda: both(params, given, key), 1, warm=True)[1])
    times.both = float(np.mean(times.rounds))


def _timed(call: Callable[[], Any], iterations: int, warm: bool = False) -> tuple[Any, float]:
    """The result, and the mean seconds of a call."""
    if not warm:
        jax.block_until_ready(call())
    began = time.perf_counter()
    for _ in range(iterations):
        found = jax.block_until_ready(call())
    return found, (time.perf_counter() - began) / iterations


__all__ = ["LayerTime", "NetTimes", "time_net"]
