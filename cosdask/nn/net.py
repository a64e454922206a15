"""A Caffe network as a pure JAX function."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cosdask import device
from cosdask.data import layer_top_shapes
from cosdask.errors import NetError, WeightsError, did_you_mean
from cosdask.nn import layers as _layers  # noqa: F401  (fills the registry)
from cosdask.nn import partition
from cosdask.nn.execute import Outcome, Params, check_inputs, from_caffe, run_graph, to_caffe
from cosdask.nn.fillers import fill
from cosdask.nn.graph import INPUT_TYPES, Graph, GraphBuilder, needed_layers, output_blobs
from cosdask.nn.layer import REGISTRY, Array, Shape
from cosdask.nn.weights import load_weights, save_weights, weights_of
from cosdask.proto import caffe_pb2, filter_net, parse_net, read_net, to_text, upgrade_net
from cosdask.storage import parent

Blobs = dict[str, list[np.ndarray]]


class Net:
    """A network from a prototxt, filtered for a phase, with weights.

    Args:
        path_or_url: a net prototxt, or a ``NetParameter`` message.
        phase: ``"TRAIN"`` or ``"TEST"``.
        level: for ``include { min_level / max_level }`` rules.
        stages: for ``include { stage / not_stage }`` rules.
        weights: a ``.caffemodel`` or ``.caffemodel.h5`` (or several, later ones winning), copied by layer name.
        input_shapes: ``{blob: shape}``, where the prototxt or its data do not say or something else is wanted.
        seed: of the fillers; None draws anew each time.
        folder: where paths inside of the net are looked for if the working directory lacks them; default: the net's.

    Raises:
        ProtoError: for a prototxt that cannot be read.
        NetError: for layers, shapes or connections that cannot work.
        WeightsError: for weights that do not fit.

    Example:
        >>> net = Net.from_text('''
        ... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
        ... layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }
        ... ''', seed=1)
        >>> net.inputs, net.outputs, net.blob_shapes["ip"]
        ({'data': (2, 3)}, ['ip'], (2, 4))
    """

    def __init__(
        self,
        path_or_url: str | os.PathLike[str] | caffe_pb2.NetParameter,
        phase: str = "TEST",
        level: int = 0,
        stages: Sequence[str] = (),
        weights: str | Sequence[str] | None = None,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        seed: int | None = None,
        folder: str | None = None,
    ) -> None:
        if isinstance(path_or_url, caffe_pb2.NetParameter):
            message, self.path = upgrade_net(path_or_url), None
        else:
            message, self.path = read_net(path_or_url), os.fspath(path_or_url)
        self.folder = folder if folder is not None else parent(self.path) if self.path else None
        self._message = filter_net(message, phase, level, stages)
        self.phase, self.level, self.stages, self.seed = phase, level, tuple(stages), seed
        self.name: str = self._message.name
        self.layers: list[caffe_pb2.LayerParameter] = list(self._message.layer)
        self.outputs: list[str] = output_blobs(self.layers)
        self.inputs: dict[str, Shape] = self._input_shapes(input_shapes or {})
        self.graph: Graph = GraphBuilder(self.layers, phase, self.inputs).build()
        self.blob_shapes: dict[str, Shape] = self.graph.blob_shapes
        self._graphs: dict[Any, Graph] = {}
        self._compiled: dict[Any, Any] = {}
        self._params: Params | None = None
        #: path and SHA-256 of the weights file that the current weights are, where they are one's
        self.weights_place: tuple[str, str] | None = None
        for path in [weights] if isinstance(weights, str | os.PathLike) else weights or ():
            self.load(path)

    @classmethod
    def from_text(cls, text: str | caffe_pb2.NetParameter, phase: str = "TEST", **keywords: Any) -> Net:
        """A net from prototxt text (or a message), with the keywords of :class:`Net`."""
        message = text if isinstance(text, caffe_pb2.NetParameter) else parse_net(text)
        return cls(message, phase, **keywords)

    # -- shapes ------------------------------------------------------------------------------------------------------

    def _input_shapes(self, given: Mapping[str, Sequence[int]]) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        for layer in self.layers:
            if layer.type not in INPUT_TYPES:
                continue
            if all(top in given for top in layer.top):
                shapes.update({top: tuple(given[top]) for top in layer.top})
                continue
            found = _stated_shapes(layer) if layer.type == "Input" else layer_top_shapes(layer, self.phase, self.folder)
            shapes.update({top: tuple(given.get(top, found[top])) for top in layer.top})
        unknown = [name for name in given if name not in shapes]
        if unknown:
            raise NetError(f'input_shapes names "{unknown[0]}", which is no input.{did_you_mean(unknown[0], shapes)}')
        return shapes

    def _graph_for(self, inputs: Mapping[str, Any], blobs: Sequence[str], loss: bool = False) -> Graph:
        """The part of the net that the blobs need, built for the inputs' shapes; kept for the next call."""
        for name in blobs:
            if name not in self.blob_shapes:
                raise NetError(f'the net makes no blob "{name}".{did_you_mean(name, self.blob_shapes)}')
        shapes = {name: tuple(np.shape(array)) for name, array in inputs.items()}
        key = (tuple(sorted(shapes.items())), tuple(blobs), loss)
        if key not in self._graphs:
            with_loss = [node.index for node in self.graph.nodes if any(node.loss_weights)] if loss else []
            chosen = needed_layers(self.layers, blobs, with_loss)
            check_inputs(_inputs_needed(self.layers, chosen, blobs), inputs)
            self._graphs[key] = GraphBuilder(self.layers, self.phase, {**self.inputs, **shapes}).build(chosen)
            self._check_weight_shapes(self._graphs[key])
        return self._graphs[key]

    def _check_weight_shapes(self, graph: Graph) -> None:
        for key, ref in graph.owned.items():
            if ref.weight.shape != self.graph.owned[key].weight.shape:
                raise NetError(
                    f'layer "{ref.owner}": the given inputs need a weight of shape {ref.weight.shape}, '
                    f"but the net's has {self.graph.owned[key].weight.shape}.",
                    layer=ref.owner,
                )

    # -- weights -----------------------------------------------------------------------------------------------------

    @property
    def params(self) -> Params:
        """The current weights: a pytree of float32 arrays; drawn by the fillers where nothing was loaded."""
        if self._params is None:
            self._params = self.init(self.seed)
        return self._params

    @params.setter
    def params(self, params: Params) -> None:
        self._params, self.weights_place = params, None

    def init(self, seed: int | None = None) -> Params:
        """Weights drawn by the fillers; the same for the same seed on every machine."""
        streams = np.random.SeedSequence(seed).spawn(len(self.graph.owned))
        return {
            key: jax.numpy.asarray(
                from_caffe(fill(ref.weight.filler, ref.weight.shape, np.random.default_rng(stream)), ref.weight.axes)
            )
            for (key, ref), stream in zip(self.graph.owned.items(), streams, strict=True)
        }

    def to_blobs(self, params: Params) -> Blobs:
        """``{layer: [array]}`` in Caffe's shapes, a shared blob under every sharer; also for gradients."""
        blobs: Blobs = {}
        for node in self.graph.nodes:
            if node.weights:
                blobs[node.key] = [
                    np.asarray(to_caffe(np.asarray(params[ref.key]), ref.owner_weight.axes)).reshape(ref.weight.shape)
                    for ref in node.weights
                ]
        return blobs

    def from_blobs(self, blobs: Mapping[str, Sequence[Any]]) -> Params:
        """Weights from ``{layer: [array]}``; layers that are not named keep their current values.

        Raises:
            WeightsError: for an unknown layer, a wrong number of blobs, or a wrong shape.
        """
        nodes = {node.key: node for node in self.graph.nodes if node.weights}
        params = dict(self.params)
        for name, arrays in blobs.items():
            if name not in nodes:
                raise WeightsError(f'the net has no layer "{name}" with weights.{did_you_mean(name, nodes)}')
            refs = nodes[name].weights
            if len(arrays) != len(refs):
                raise WeightsError(
                    f'layer "{name}": {len(arrays)} weight blob(s) given, the layer has {len(refs)}.', layer=name
                )
            for position, (ref, array) in enumerate(zip(refs, arrays, strict=True)):
                if array is None:
                    continue
                if tuple(np.shape(array)) != ref.weight.shape:
                    raise WeightsError(
                        f'layer "{name}", weight {position}: shape {tuple(np.shape(array))} given, '
                        f"{ref.weight.shape} wanted. To train this layer from scratch, give it another name.",
                        layer=name,
                    )
                whole = np.asarray(array, np.float32).reshape(ref.owner_weight.shape)
                params[ref.key] = jax.numpy.asarray(from_caffe(whole, ref.owner_weight.axes))
        return params

    def load(self, path: str | os.PathLike[str]) -> None:
        """Copy weights by layer name from a ``.caffemodel`` or ``.caffemodel.h5``, as Caffe does.

        Raises:
            WeightsError: for blobs whose number or shape differs, and for a file that is none.
        """
        wanted = {node.key: node.weights for node in self.graph.nodes if node.weights}
        blobs = load_weights(os.fspath(path), wanted)
        self.params = self.from_blobs(blobs)
        if len(blobs) == len(wanted):
            self.weights_place = (os.fspath(path), partition.hash_of(path))

    def load_message(self, message: caffe_pb2.NetParameter) -> None:
        """Copy weights by layer name from a ``NetParameter`` that holds blobs."""
        wanted = {node.key: node.weights for node in self.graph.nodes if node.weights}
        self.params = self.from_blobs(weights_of(message, wanted, "<message>"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as ``.caffemodel``, or as HDF5 where the name ends in ``.h5``."""
        save_weights(os.fspath(path), self, self.to_blobs(self.params))

    # -- running -----------------------------------------------------------------------------------------------------

    def run(
        self, params: Params, inputs: Mapping[str, Any], rng: Any, blobs: Sequence[str], loss: bool = False
    ) -> Outcome:
        """Run the part of the net that ``blobs`` (and, if asked, the loss) need."""
        return run_graph(self._graph_for(inputs, blobs, loss), params, inputs, blobs, rng)

    def apply(
        self, params: Params, inputs: Mapping[str, Any], rng: Any = None, blobs: Sequence[str] | None = None
    ) -> tuple[dict[str, Array], Params]:
        """Blobs from weights and inputs; pure, can be jitted and differentiated.

        Args:
            params: from :attr:`params`, :meth:`init` or :meth:`from_blobs`.
            inputs: ``{blob: array}`` in Caffe's layout, float32; any batch size.
            rng: a JAX key, needed where a layer draws random numbers in this phase.
            blobs: names of the blobs to return; default :attr:`outputs`.

        Returns:
            ``({blob: array}, params)``; the params carry BatchNorm's sums after this batch.
        """
        outcome = self.run(params, inputs, rng, tuple(self.outputs if blobs is None else blobs))
        return outcome.blobs, outcome.params

    def loss(self, params: Params, inputs: Mapping[str, Any], rng: Any = None) -> tuple[Array, Any]:
        """The total weighted loss without weight decay: ``(total, ({output: array}, params))``; pure."""
        outcome = self.run(params, inputs, rng, tuple(self.outputs), loss=True)
        return outcome.loss, (outcome.blobs, outcome.params)

    def forward(self, inputs: Mapping[str, Any], blobs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Blobs for a batch of any size with the current weights, compiled once a shape.

        Only the inputs that the blobs asked for depend on are needed.
        """
        wanted = tuple(self.outputs if blobs is None else blobs)
        graph = self._graph_for(inputs, wanted)
        given = {name: np.asarray(inputs[name], np.float32) for name in graph.inputs if name in inputs}
        key = id(graph)
        if key not in self._compiled:
            self._compiled[key] = device.compile_function(
                lambda params, given, rng: run_graph(graph, params, given, wanted, rng).blobs
            )
        rng = jax.random.key(self.seed or 0) if any(node.layer.random for node in graph.nodes) else None
        used = {ref.key: self.params[ref.key] for node in graph.nodes for ref in node.weights}
        return {name: np.asarray(array) for name, array in self._compiled[key](used, given, rng).items()}

    def batch_axis(self, blob: str) -> int | None:
        """The axis of a blob that grows with the batch, or None for blobs that sum up over the batch."""
        if blob not in self.blob_shapes:
            raise NetError(f'the net makes no blob "{blob}".{did_you_mean(blob, self.blob_shapes)}')
        return partition.batch_axis(self, blob)

    def map_partition(
        self, frame: Any, blobs: Sequence[str], column: str = "data", transform: bool = True
    ) -> Any:
        """The frame plus a column a blob; for ``ddf.map_partitions`` (see :func:`cosdask.nn.partition.map_partition`)."""
        return partition.map_partition(self, frame, blobs, column, transform)

    def meta(self, frame: Any, blobs: Sequence[str]) -> Any:
        """The ``meta=`` that goes with :meth:`map_partition`."""
        return partition.meta(frame, blobs)

    def __reduce__(self) -> Any:
        """A pickled net is its text, and where its weights lie (see :mod:`cosdask.nn.partition`)."""
        return partition.reduce_net(self)

    def to_message(self) -> caffe_pb2.NetParameter:
        """The net after filter and upgrade."""
        return self._message

    def to_prototxt(self) -> str:
        """The net after filter and upgrade as text."""
        return to_text(self._message)


def _stated_shapes(layer: caffe_pb2.LayerParameter) -> dict[str, Shape]:
    shapes = [tuple(shape.dim) for shape in layer.input_param.shape]
    if len(shapes) == 1:
        shapes *= len(layer.top)
    if len(shapes) != len(layer.top):
        raise NetError(
            f'layer "{layer.name}" (Input): input_param states {len(shapes)} shape(s) for {len(layer.top)} top(s); '
            "state one for all, or one for each.",
            layer=layer.name,
        )
    return dict(zip(layer.top, shapes, strict=True))


def _inputs_needed(
    layers: Sequence[caffe_pb2.LayerParameter], chosen: Sequence[int], blobs: Iterable[str]
) -> list[str]:
    """Tops of input layers that the chosen layers read or that were asked for themselves."""
    read = {bottom for index in chosen for bottom in layers[index].bottom}.union(blobs)
    tops = [top for index in chosen if layers[index].type in INPUT_TYPES for top in layers[index].top]
    return [top for top in tops if top in read]


__all__ = ["REGISTRY", "Net"]
