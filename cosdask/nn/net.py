"""A Caffe network as a pure JAX function."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from cosdask.data import layer_top_shapes
from cosdask.device import on_device
from cosdask.errors import NetError, WeightsError, did_you_mean
from cosdask.nn import layers as _layers  # noqa: F401  (fills the registry)
from cosdask.nn.execute import Outcome, Params, States, from_caffe, run_graph, to_caffe
from cosdask.nn.fillers import fill
from cosdask.nn.graph import INPUT_TYPES, Graph, GraphBuilder, WeightRef, output_blobs
from cosdask.nn.layer import Array, Shape
from cosdask.nn.layers.hdf5_output import OutputFiles
from cosdask.nn.layers.python import user_errors
from cosdask.nn.places import layer_places
from cosdask.nn.precision import check_precision
from cosdask.nn.programs import Program, Programs
from cosdask.nn.weights import load_weights, save_weights, weights_of
from cosdask.proto import caffe_pb2, filter_net, parse_net, read_prototxt, to_text, upgrade_net
from cosdask.storage import FileStamp, exists, local_path, parent, resolve, stamp

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
        precision: ``"float32"``, ``"tf32"`` or ``"bfloat16"`` (see :mod:`cosdask.nn.precision`); weights and what is
            returned are float32 in each.

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
        precision: str = "float32",
    ) -> None:
        self.precision = check_precision(precision)
        self.path: str | None = None
        text: str | None = None
        if isinstance(path_or_url, caffe_pb2.NetParameter):
            whole = upgrade_net(path_or_url)
        else:
            self.path, text = os.fspath(path_or_url), read_prototxt(path_or_url)
            whole = parse_net(text, self.path)
        self.folder = folder if folder is not None else parent(self.path) if self.path else None
        self._message = filter_net(whole, phase, level, stages)
        self._places = layer_places(text, whole, self._message.state) if text is not None else {}
        self.phase: str = caffe_pb2.Phase.Name(self._message.state.phase)
        self.level, self.stages, self.seed = level, tuple(stages), seed
        self.name: str = self._message.name
        self.layers: list[caffe_pb2.LayerParameter] = list(self._message.layer)
        with self._placed():
            self.outputs: list[str] = output_blobs(self.layers)
            self.inputs: dict[str, Shape] = self._input_shapes(input_shapes or {})
            built = _with_places(self.layers, self.folder)
            force = self._message.force_backward
            self.graph: Graph = GraphBuilder(built, self.phase, self.inputs, force_backward=force).build()
        self.blob_shapes: dict[str, Shape] = self.graph.blob_shapes
        self.programs = Programs(built, self.phase, self.inputs, self.graph, self.precision)
        self._params: Params | None = None
        self._states: dict[str, Sequence[Array]] = {}
        self._draw_key: Array | None = None
        self._draws = 0
        self._files = OutputFiles(self.layers)
        # the file that the current weights are, what it looked like then, and the weights as they were loaded
        self._weights_file: tuple[str, FileStamp, Params] | None = None
        for path in [weights] if isinstance(weights, str | os.PathLike) else weights or ():
            self.load(path)

    @classmethod
    def from_text(cls, text: str | caffe_pb2.NetParameter, phase: str = "TEST", **keywords: Any) -> Net:
        """A net from prototxt text (or a message), with the keywords of :class:`Net`."""
        message = text if isinstance(text, caffe_pb2.NetParameter) else parse_net(text)
        return cls(message, phase, **keywords)

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Errors about a layer get the file and line of its block."""
        try:
            yield
        except NetError as error:
            line = self._places.get(error.where.get("layer", ""))
            if line is not None and "line" not in error.where:
                error.args = (f"{self.path}:{line}: {error.message}",)
                error.where.update(path=self.path, line=line)
            raise

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

    # -- weights -----------------------------------------------------------------------------------------------------

    @property
    def params(self) -> Params:
        """The current weights: a pytree of float32 arrays; drawn by the fillers where nothing was loaded."""
        if self._params is None:
            self._params = self.init(self.seed)
        return self._params

    @params.setter
    def params(self, params: Params) -> None:
        self.check_params(params)
        self._params, self._weights_file = params, None

    def check_params(self, params: Params) -> None:
        """Params must hold each of this net's weights.

        Raises:
            WeightsError: naming one that is missing.
        """
        _check_keys(params, self.graph.owned)

    @property
    def weights_place(self) -> tuple[str, str] | None:
        """Path and SHA-256 of the weights file that the current weights are; None where they are no file's."""
        if self._weights_file is None:
            return None
        path, before, loaded = self._weights_file
        from cosdask.nn import partition  # it loads pandas, which a rank can do without

        same = all(self.params[key] is weight for key, weight in loaded.items())
        return (path, partition.hash_of(path)) if same and exists(path) and stamp(path) == before else None

    def init(self, seed: int | None = None) -> Params:
        """Weights drawn by the fillers, or those that the net's layers hold; the same for the same seed everywhere."""
        streams = np.random.SeedSequence(seed).spawn(len(self.graph.owned))
        params = self._stated_weights()
        for (key, ref), stream in zip(self.graph.owned.items(), streams, strict=True):
            if key in params:
                continue
            drawn = ref.weight.start
            if drawn is None:
                drawn = fill(ref.weight.filler, ref.weight.shape, np.random.default_rng(stream))
            params[key] = on_device(from_caffe(drawn, ref.weight.axes))
        return {key: params[key] for key in self.graph.owned}

    def _stated_weights(self) -> Params:
        """The weights that the net's own layers hold (``blobs``), which Caffe takes in place of the fillers'."""
        holding = {layer.name for layer in self.layers if layer.blobs}
        wanted = {node.key: node.weights for node in self.graph.nodes if node.weights and node.key in holding}
        return self._given(weights_of(self._message, wanted, self.path or "<message>")) if wanted else {}

    def to_blobs(self, params: Params) -> Blobs:
        """``{layer: [array]}`` in Caffe's shapes, a shared blob under every sharer; also for gradients.

        The arrays are copies, float32, and may be written to.

        Raises:
            WeightsError: for params of another net.
        """
        self.check_params(params)
        blobs: Blobs = {}
        for node in self.graph.nodes:
            if node.weights:
                blobs[node.key] = [
                    np.array(to_caffe(np.asarray(params[ref.key]), ref.owner_weight.axes), order="C").reshape(
                        ref.weight.shape
                    )
                    for ref in node.weights
                ]
        return blobs

    def from_blobs(self, blobs: Mapping[str, Sequence[Any]]) -> Params:
        """Weights from ``{layer: [array]}``; layers that are not named keep their current values.

        Raises:
            WeightsError: for an unknown layer, a wrong number of blobs, or a wrong shape.
        """
        given = self._given(blobs)
        # weights are drawn by the fillers only where some are still wanted
        whole = given if len(given) == len(self.graph.owned) else {**self.params, **given}
        return {key: whole[key] for key in self.graph.owned}

    def _given(self, blobs: Mapping[str, Sequence[Any]]) -> Params:
        """The weights that are given, by their keys; errors are those of :meth:`from_blobs`."""
        nodes = {node.key: node for node in self.graph.nodes if node.weights}
        given: Params = {}
        for name, arrays in blobs.items():
            if name not in nodes:
                raise WeightsError(f'the net has no layer "{name}" with weights.{did_you_mean(name, nodes)}')
            refs = nodes[name].weights
            if len(arrays) != len(refs):
                raise WeightsError(
                    f'layer "{name}": {len(arrays)} weight blob(s) given, the layer has {len(refs)}.', layer=name
                )
            for position, (ref, array) in enumerate(zip(refs, arrays, strict=True)):
                if array is not None:
                    given[ref.key] = _kept(name, position, ref, array)
        return given

    def load(self, path: str | os.PathLike[str]) -> None:
        """Copy weights by layer name from a ``.caffemodel`` or ``.caffemodel.h5``, as Caffe does.

        Layers that the file lacks keep their weights; layers that the net lacks are passed over.

        Raises:
            WeightsError: for blobs whose number or shape differs, and for a file that is none.
            ProtoError, StorageError: for a file that cannot be read.
        """
        wanted = {node.key: node.weights for node in self.graph.nodes if node.weights}
        before = stamp(path)
        blobs = load_weights(os.fspath(path), wanted)
        self.params = self.from_blobs(blobs)
        if len(blobs) == len(wanted):
            here = local_path(path)
            # a pickled net may be opened by a process with another working directory
            place = os.fspath(path) if here is None else str(here.absolute())
            self._weights_file = (place, before, dict(self.params))

    def load_message(self, message: caffe_pb2.NetParameter) -> None:
        """Copy weights by layer name from a ``NetParameter`` that holds blobs."""
        wanted = {node.key: node.weights for node in self.graph.nodes if node.weights}
        self.params = self.from_blobs(weights_of(message, wanted, "<message>"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights as ``.caffemodel``, or as HDF5 where the name ends in ``.h5``."""
        save_weights(os.fspath(path), self, self.to_blobs(self.params))

    # -- running -----------------------------------------------------------------------------------------------------

    def _program(self, inputs: Mapping[str, Any], blobs: Sequence[str] | None, loss: bool = False) -> Program:
        if isinstance(blobs, str):
            raise NetError(f'blobs="{blobs}": give a list of names, such as ["{blobs}"].')
        with self._placed():
            return self.programs.find(inputs, tuple(self.outputs if blobs is None else blobs), loss)

    def _run(self, params: Params, inputs: Mapping[str, Any], rng: Any, blobs: Any, loss: bool = False) -> Outcome:
        program = self._program(inputs, blobs, loss)
        _check_keys(params, program.weights)
        with self._placed():
            return run_graph(program.graph, params, inputs, program.blobs, rng, precision=self.precision)

    def apply(
        self, params: Params, inputs: Mapping[str, Any], rng: Any = None, blobs: Sequence[str] | None = None
    ) -> tuple[dict[str, Array], Params]:
        """Blobs from weights and inputs; pure, can be jitted and differentiated.

        Args:
            params: from :attr:`params`, :meth:`init` or :meth:`from_blobs`.
            inputs: ``{blob: array}`` in Caffe's layout, read as float32; any batch size; inputs that nothing asked for
                depends on may be left out.
            rng: a JAX key, needed where a layer draws random numbers in this phase.
            blobs: names of the blobs to return; default :attr:`outputs`.

        Returns:
            ``({blob: array}, params)``; the params carry BatchNorm's sums after this batch.

        Raises:
            NetError: for an unknown blob, a missing input, shapes that do not fit, or a missing ``rng``.
            WeightsError: for params of another net.
        """
        outcome = self._run(params, inputs, rng, blobs)
        return outcome.blobs, outcome.params

    def loss(self, params: Params, inputs: Mapping[str, Any], rng: Any = None) -> tuple[Array, Any]:
        """The total weighted loss without weight decay: ``(total, ({output: array}, params))``; pure.

        Arguments and errors are those of :meth:`apply`. The total is a float32 scalar: each top times its
        ``loss_weight``, summed; 0 for a net without a loss.
        """
        outcome = self._run(params, inputs, rng, None, loss=True)
        return outcome.loss, (outcome.blobs, outcome.params)

    def forward(self, inputs: Mapping[str, Any], blobs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Blobs for a batch of any size with the current weights, compiled once a shape.

        Only the inputs that the blobs asked for depend on are needed. Recurrent layers go on from where the last call
        left them, as in pycaffe: a sequence may be fed in pieces; inputs of another number of samples start anew.
        Where a layer draws random numbers, each call draws new ones, the same for the same ``seed`` of the net.
        Where no blobs are named, HDF5Output layers append the batch to their files.

        Args:
            inputs: ``{blob: array}`` in Caffe's layout, read as float32.
            blobs: names of the blobs to return; default :attr:`outputs`.

        Returns:
            ``{blob: float32 array}`` in Caffe's layout.

        Raises:
            NetError: for an unknown blob, a missing input, or shapes that do not fit.
        """
        kept = [] if blobs is not None else self._files.blobs
        program = self._program(inputs, list(dict.fromkeys([*self.outputs, *kept])) if kept else blobs)
        found, states = self._forward(program, inputs, self._states_for(program))
        self._states.update(states)
        if kept:
            self._files.write(found)
        return found if blobs is not None else {name: found[name] for name in self.outputs}

    def forward_anew(self, inputs: Mapping[str, Any], blobs: Sequence[str]) -> dict[str, np.ndarray]:
        """As :meth:`forward`, but recurrent layers start from zero and keep nothing; for use from several threads."""
        program = self._program(inputs, blobs)
        return self._forward(program, inputs, program.first_states)[0]

    def _forward(
        self, program: Program, inputs: Mapping[str, Any], states: States
    ) -> tuple[dict[str, np.ndarray], States]:
        given = {name: np.asarray(inputs[name], np.float32) for name in program.graph.inputs if name in inputs}
        params = self.params
        used = {key: params[key] for key in program.weights}
        with self._placed(), user_errors():
            found, after = program(used, given, self._next_key() if program.random else None, states)
            return {name: np.asarray(array) for name, array in found.items()}, after

    def _next_key(self) -> Array:
        """A key for the random layers of one call."""
        if self._draw_key is None:
            seed = secrets.randbelow(2**31) if self.seed is None else self.seed
            self._draw_key = jax.random.key(seed)
        self._draws += 1
        return jax.random.fold_in(self._draw_key, self._draws)

    def _states_for(self, program: Program) -> States:
        """The states that the last call left, where their shapes still fit."""
        return {
            key: self._states[key] if _shapes(self._states.get(key, ())) == _shapes(first) else first
            for key, first in program.first_states.items()
        }

    def batch_axis(self, blob: str) -> int | None:
        """The axis of a blob that grows with the batch, or None for blobs that sum up over the batch.

        Raises:
            NetError: for a blob that the net lacks.
        """
        return self.programs.batch_axis(blob)

    def map_partition(self, frame: Any, blobs: Sequence[str], column: str = "data", transform: bool = True) -> Any:
        """The frame plus a column a blob; for ``ddf.map_partitions`` (see :mod:`cosdask.nn.partition`)."""
        from cosdask.nn import partition

        return partition.map_partition(self, frame, blobs, column, transform)

    def meta(self, frame: Any, blobs: Sequence[str]) -> Any:
        """The ``meta=`` that goes with :meth:`map_partition`."""
        from cosdask.nn import partition

        return partition.meta(frame, blobs)

    def copy(self) -> Net:
        """Another net with the same weights; what has been compiled is shared, weights and states are its own."""
        twin: Net = object.__new__(Net)
        twin.__dict__.update(self.__dict__, _params=self.params, _states={})
        return twin

    __copy__ = copy

    def __deepcopy__(self, memo: Any) -> Net:
        return self.copy()

    def __reduce__(self) -> Any:
        """A pickled net is its text, and where its weights lie (see :mod:`cosdask.nn.partition`)."""
        from cosdask.nn import partition

        return partition.reduce_net(self)

    def to_message(self) -> caffe_pb2.NetParameter:
        """The net after filter and upgrade."""
        return self._message

    def to_prototxt(self) -> str:
        """The net after filter and upgrade as text."""
        return to_text(self._message)


def _with_places(layers: Sequence[caffe_pb2.LayerParameter], folder: str | None) -> list[caffe_pb2.LayerParameter]:
    """The layers as they are built: files that they read are looked for beside the net too, as data files are."""
    built = []
    for layer in layers:
        if layer.type == "InfogainLoss" and layer.infogain_loss_param.source:
            placed = caffe_pb2.LayerParameter()
            placed.CopyFrom(layer)
            placed.infogain_loss_param.source = resolve(layer.infogain_loss_param.source, folder)
            layer = placed
        built.append(layer)
    return built


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


def _kept(layer: str, position: int, ref: WeightRef, array: Any) -> Array:
    """A weight in Caffe's shape as it is kept."""
    if tuple(np.shape(array)) != ref.weight.shape:
        raise WeightsError(
            f'layer "{layer}", weight {position}: shape {tuple(np.shape(array))} given, {ref.weight.shape} wanted. '
            "To train this layer from scratch, give it another name.",
            layer=layer,
        )
    whole = np.asarray(array, np.float32).reshape(ref.owner_weight.shape)
    return on_device(from_caffe(whole, ref.owner_weight.axes))


def _check_keys(params: Mapping[str, Any], wanted: Iterable[str]) -> None:
    missing = sorted(set(wanted) - set(params))
    if missing:
        layer, _, position = missing[0].rpartition("/")
        raise WeightsError(
            f'params lack weight {position} of layer "{layer}" ({len(missing)} missing in all); '
            "make them with init, from_blobs or params of this net.",
            layer=layer,
        )


def _shapes(arrays: Sequence[Array]) -> list[Shape]:
    return [tuple(array.shape) for array in arrays]


__all__ = ["Net"]
