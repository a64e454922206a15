"""The parts of a net that calls ask for, each built and compiled once for its input shapes."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cosdask import device
from cosdask.errors import NetError, did_you_mean
from cosdask.nn.execute import Params, States, first_states, run_graph
from cosdask.nn.graph import INPUT_TYPES, Graph, GraphBuilder, needed_layers, output_blobs
from cosdask.nn.layer import Array, Shape
from cosdask.nn.user_code import is_user_code
from cosdask.proto import caffe_pb2


class Program:
    """A part of a net for given input shapes; called, it runs compiled.

    Attributes:
        graph: the layers that take part.
        blobs: names of the blobs it returns.
        random: whether it needs a key.
        first_states: what its recurrent layers start from.
        weights: keys of the weights that it reads.
    """

    def __init__(self, graph: Graph, blobs: tuple[str, ...], precision: str = "float32") -> None:
        self.graph, self.blobs, self.precision = graph, blobs, precision
        self.random = any(node.layer.random for node in graph.nodes)
        with jax.ensure_compile_time_eval():  # kept beyond the trace of a user's jit
            self.first_states = first_states(graph)
        self.weights = {ref.key for node in graph.nodes for ref in node.weights}
        as_data_say = graph.shapes_depend_on_data
        self._function = self._run if as_data_say else device.compile_function(self._run)
        self._first_call = threading.Lock()
        self._compiled = as_data_say

    def _run(
        self, params: Params, inputs: Mapping[str, Array], rng: Array | None, states: States
    ) -> tuple[dict[str, Array], States]:
        outcome = run_graph(self.graph, params, inputs, self.blobs, rng, states, self.precision)
        return outcome.blobs, outcome.states

    def __call__(
        self, params: Params, inputs: Mapping[str, Any], rng: Array | None, states: States
    ) -> tuple[dict[str, Array], States]:
        """The blobs in Caffe's layout, and the recurrent layers' states after it."""
        if self._compiled:
            return self._function(params, inputs, rng, states)
        # threads of one worker often ask for the same thing first: one compiles, the others wait
        with self._first_call:
            result: tuple[dict[str, Array], States] = self._function(params, inputs, rng, states)
            self._compiled = True
        return result


class Programs:
    """What has been built for a net so far. Copies of a net share it; it may be used from several threads.

    Args:
        layers: the net's layers.
        phase: ``"TRAIN"`` or ``"TEST"``.
        inputs: the net's inputs and the shapes it states for them.
        whole: the net's whole graph, which says where weights live.
        precision: of all of them.
    """

    def __init__(
        self,
        layers: Sequence[caffe_pb2.LayerParameter],
        phase: str,
        inputs: Mapping[str, Shape],
        whole: Graph,
        precision: str = "float32",
    ) -> None:
        self._precision = precision
        self._layers, self._phase, self._inputs, self._whole = layers, phase, dict(inputs), whole
        self._lock = threading.RLock()
        self._programs: dict[Any, Program] = {}
        self._needs: dict[Any, tuple[list[int], list[str]]] = {}
        self._batch_axes: dict[str, int | None] = {}

    def find(self, given: Mapping[str, Any], blobs: tuple[str, ...], loss: bool = False) -> Program:
        """The program that makes ``blobs`` (and the total loss) from inputs of the given shapes.

        Raises:
            NetError: for a blob that the net lacks, an input that is missing, or shapes that do not fit.
        """
        with self._lock:
            chosen, names = self._needed(blobs, loss)
            missing = [name for name in names if name not in given]
            if missing:
                near = did_you_mean(missing[0], [name for name in given if name not in self._inputs])
                raise NetError(
                    f"inputs missing: {', '.join(missing)}; given: {', '.join(given) or 'none'}.{near} "
                    "Give each as an array in Caffe's layout."
                )
            shapes = {name: tuple(int(size) for size in np.shape(given[name])) for name in names}
            key = (blobs, loss, tuple(shapes.items()))
            if key not in self._programs:
                self._programs[key] = Program(self._build(chosen, shapes), blobs, self._precision)
            return self._programs[key]

    def _needed(self, blobs: tuple[str, ...], loss: bool) -> tuple[list[int], list[str]]:
        """Which layers take part, and which inputs must be given."""
        if (blobs, loss) not in self._needs:
            for name in blobs:
                check_blob(name, self._whole)
            also = [node.index for node in self._whole.nodes if any(node.loss_weights)] if loss else []
            if loss or set(blobs).issuperset(output_blobs(self._layers)):
                also += [node.index for node in self._whole.nodes if not node.tops and is_user_code(node.layer)]
            chosen = needed_layers(self._layers, blobs, also)
            read = {bottom for index in chosen for bottom in self._layers[index].bottom}.union(blobs)
            tops = [top for i in chosen if self._layers[i].type in INPUT_TYPES for top in self._layers[i].top]
            self._needs[blobs, loss] = chosen, [top for top in tops if top in read]
        return self._needs[blobs, loss]

    def _build(self, chosen: Sequence[int], shapes: Mapping[str, Shape]) -> Graph:
        try:
            return GraphBuilder(self._layers, self._phase, {**self._inputs, **shapes}, self._whole).build(chosen)
        except NetError as error:
            odd = [name for name, shape in shapes.items() if len(shape) != len(self._inputs[name])]
            if odd:
                hint = f' Input "{odd[0]}" was given as {shapes[odd[0]]}, the net states {self._inputs[odd[0]]}.'
                error.args = (error.message + hint,)
            raise

    def batch_axis(self, blob: str) -> int | None:
        """The axis of a blob that grows with the batch, found by building the net for one row more; None if none does.

        Raises:
            NetError: for a blob that the net lacks.
        """
        check_blob(blob, self._whole)
        with self._lock:
            if blob not in self._batch_axes:
                self._batch_axes[blob] = self._find_batch_axis(blob)
            return self._batch_axes[blob]

    def _find_batch_axis(self, blob: str) -> int | None:
        more = {name: one_more(shape, self.input_axis(name)) for name, shape in self._inputs.items()}
        before = self._whole.blob_shapes[blob]
        try:
            chosen = needed_layers(self._layers, [blob])
            after = GraphBuilder(self._layers, self._phase, more, self._whole).build(chosen).blob_shapes[blob]
        except NetError:
            # inputs that do not grow together (a net for one fixed size): the usual place of the batch
            first = next(iter(self._inputs.values()), ())
            return 0 if before and first and before[0] == first[0] else None
        grown = [axis for axis, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        return grown[0] if grown else None

    def input_axis(self, name: str) -> int:
        """Where an input has its batch: axis 1 for time-major tops of CoSData, else axis 0."""
        for layer in self._layers:
            if layer.type == "CoSData" and name in layer.top:
                return int(layer.cos_data_param.top[list(layer.top).index(name)].transpose)
        return 0


def one_more(shape: Shape, axis: int) -> Shape:
    """The shape with one row more on an axis.

    Example:
        >>> one_more((2, 3), 1)
        (2, 4)
    """
    return tuple(size + (position == axis) for position, size in enumerate(shape))


def check_blob(name: str, graph: Graph) -> None:
    """A blob must be one that the graph makes.

    Raises:
        NetError: naming the nearest ones.
    """
    if name not in graph.blob_shapes:
        raise NetError(f'the net makes no blob "{name}".{did_you_mean(name, graph.blob_shapes)}')
