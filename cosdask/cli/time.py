"""``cosdask time``: how long a net's layers take, in the words of ``caffe time``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cosdask.cli.tools import chosen_net, positive, tool_parser
from cosdask.nn import Net
from cosdask.nn.timing import NetTimes, time_net

_ABOUT = """Time a net on this machine's device with random numbers as data: each layer compiled by itself, forward and
backward, then the whole net compiled as one, as training runs it. That is faster than the layers' sum, for what one
layer makes need not be stored for the next."""

_EXAMPLES = """  cosdask time lenet_train_test.prototxt
  cosdask time train_val.prototxt --input-shape data=16,3,227,227 --input-shape label=16 --iterations 10"""


def main(words: Sequence[str]) -> int:
    """Runs the verb with the words after it; returns the exit code."""
    flags = tool_parser("time", _ABOUT, _EXAMPLES, "TRAIN")
    flags.add_argument("--iterations", default="50", metavar="N", help="passes to average over (default 50)")
    given = flags.parse(words)
    iterations = positive(given.iterations, "iterations")
    net = chosen_net(given).open(seed=0)
    for line in caffe_time_lines(time_net(net, random_inputs(net), iterations), iterations):
        print(line)
    return 0


def random_inputs(net: Net) -> dict[str, np.ndarray]:
    """Normal numbers for what gradients may flow to, zeros for labels and indices."""
    ids = {
        name
        for node in net.graph.nodes
        for position, name in enumerate(node.bottoms)
        if position in node.layer.no_gradient
    }
    random = np.random.default_rng(0)
    return {
        name: np.zeros(shape, np.float32) if name in ids else random.standard_normal(shape, np.float32)
        for name, shape in net.inputs.items()
    }


def caffe_time_lines(times: NetTimes, iterations: int) -> Iterator[str]:
    """The lines that ``caffe time`` prints, without the prefix of its log."""
    yield f"Initial loss: {times.loss:g}"
    yield "*** Benchmark begins ***"
    yield f"Testing for {iterations} iterations."
    for number, seconds in enumerate(times.rounds, start=1):
        yield f"Iteration: {number} forward-backward time: {1000 * seconds:g} ms."
    yield "Average time per layer: "
    for line in times.layers:
        yield f"{line.name:>10}\tforward: {1000 * line.forward:g} ms."
        yield f"{line.name:>10}\tbackward: {1000 * line.backward:g} ms."
    if times.rounds:
        yield f"Average Forward pass: {1000 * times.forward:g} ms."
        yield f"Average Backward pass: {1000 * max(0.0, times.both - times.forward):g} ms."
        yield f"Average Forward-Backward: {1000 * times.both:g} ms."
        yield f"Total Time: {1000 * sum(times.rounds):g} ms."
    yield "*** Benchmark ends ***"
