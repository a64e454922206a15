"""From prototxt layers to a graph: which blob goes where, which weights are shared, what every shape is.

The graph is static: it is built once per set of input shapes and holds no arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cosdask.errors import NetError, did_you_mean
from cosdask.nn.fillers import filler_problem
from cosdask.nn.layer import REGISTRY, Layer, Shape, Weight, count, make_layer
from cosdask.proto import caffe_pb2

#: layer types whose tops come from outside: from a data source or from the caller
INPUT_TYPES = frozenset({"Input", "Data", "MemoryData", "CoSData", "HDF5Data", "ImageData", "WindowData"})


#: the name of the top that a loss layer gets where the prototxt gives none; no blob that others see
AUTOMATIC = "(automatic)"

#: most numbers in a blob
MAX_COUNT = 2**31 - 1


@dataclass(frozen=True)
class WeightRef:
    """A weight as one layer sees it, and where it lives: under its owner's key."""

    key: str
    owner: str
    weight: Weight  # as the layer that uses it sees it
    owner_weight: Weight
    spec: caffe_pb2.ParamSpec  # one message for all sharers: what any of them states holds for the blob
    trained: bool  # False: no gradient flows from this layer into the weight

    @property
    def lr_mult(self) -> float:
        """Multiplier of the learning rate."""
        return self.spec.lr_mult

    @property
    def decay_mult(self) -> float:
        """Multiplier of the weight decay."""
        return self.spec.decay_mult


@dataclass(frozen=True)
class Node:
    """A layer in its place: built for its bottoms' shapes, with its weights resolved."""

    index: int
    key: str
    layer: Layer
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    weights: tuple[WeightRef, ...]
    loss_weights: tuple[float, ...]
    stopped: tuple[bool, ...]  # a bottom that no gradient flows to
    propagates: tuple[bool, ...]  # a bottom that Caffe computes a gradient for: it depends on a trained weight


@dataclass
class Graph:
    """A net's nodes in order, its blob shapes, and the weights it owns in Caffe's order."""

    nodes: list[Node] = field(default_factory=list)
    blob_shapes: dict[str, Shape] = field(default_factory=dict)
    inputs: dict[str, Shape] = field(default_factory=dict)
    owned: dict[str, WeightRef] = field(default_factory=dict)

    @property
    def shapes_depend_on_data(self) -> bool:
        """Whether a layer's tops have as many rows as the data say; such a graph cannot be compiled."""
        return any(getattr(node.layer, "data_dependent_shapes", False) for node in self.nodes)


def layer_keys(layers: Sequence[caffe_pb2.LayerParameter]) -> list[str]:
    """A unique key a layer: its name, with a number behind it where Caffe's nets use a name twice."""
    seen: dict[str, int] = {}
    keys = []
    for layer in layers:
        seen[layer.name] = seen.get(layer.name, 0) + 1
        keys.append(layer.name if seen[layer.name] == 1 else f"{layer.name}#{seen[layer.name]}")
    return keys


def output_blobs(layers: Sequence[caffe_pb2.LayerParameter]) -> list[str]:
    """Tops that nobody reads, in the order in which Caffe lists a net's outputs (sorted by name).

    Raises:
        NetError: for a bottom that no layer before it makes, or a top made twice.
    """
    available: set[str] = set()
    made: set[str] = set()
    for layer in layers:
        for bottom in layer.bottom:
            if bottom not in made:
                raise NetError(
                    f'layer "{layer.name}" ({layer.type}): bottom "{bottom}" is made by no layer before it.'
                    f"{did_you_mean(bottom, made)}",
                    layer=layer.name,
                )
            available.discard(bottom)
        for position, top in enumerate(layer.top):
            in_place = position < len(layer.bottom) and layer.bottom[position] == top
            if top in made and not in_place:
                raise NetError(
                    f'layer "{layer.name}" ({layer.type}): top "{top}" is already made by a layer before it; '
                    "give it another name (or the same position as the bottom, to work in place).",
                    layer=layer.name,
                )
            made.add(top)
            available.add(top)
    return sorted(available)


def needed_layers(
    layers: Sequence[caffe_pb2.LayerParameter], blobs: Iterable[str], also: Iterable[int] = ()
) -> list[int]:
    """Indices of the layers that the blobs depend on (and the layers in ``also`` with all that they depend on)."""
    wanted = set(blobs)
    forced = set(also)
    chosen = []
    for index in reversed(range(len(layers))):
        layer = layers[index]
        if index in forced or wanted.intersection(layer.top):
            chosen.append(index)
            wanted.difference_update(layer.top)
            wanted.update(layer.bottom)
    return chosen[::-1]


def with_automatic_top(param: caffe_pb2.LayerParameter) -> caffe_pb2.LayerParameter:
    """The layer as it is built: a loss layer without a top gets one that no other layer can name, as in Caffe."""
    cls = REGISTRY.get(param.type)
    if param.top or cls is None or not cls.is_loss:
        return param
    whole = caffe_pb2.LayerParameter()
    whole.CopyFrom(param)
    whole.top.append(AUTOMATIC)
    return whole


def loss_weights(param: caffe_pb2.LayerParameter, is_loss: bool) -> tuple[float, ...]:
    """The weight of each top in the total loss (Caffe: 1 for the first top of a loss layer unless stated)."""
    stated = list(param.loss_weight)
    if stated and len(stated) != len(param.top):
        raise NetError(
            f'layer "{param.name}" ({param.type}): loss_weight is given {len(stated)} time(s), '
            f"but the layer has {len(param.top)} top(s); give one for each.",
            layer=param.name,
        )
    if stated:
        return tuple(stated)
    return tuple(1.0 if is_loss and position == 0 else 0.0 for position in range(len(param.top)))


def _check_size(layer: Layer, what: str, shape: Shape) -> None:
    """Caffe's bound on a blob; without it a mistyped number ends in a machine without memory."""
    if count(shape) > MAX_COUNT:
        layer.fail(f"{what} of shape {shape} has {count(shape):,} numbers, more than the {MAX_COUNT:,} of a blob.")


class GraphBuilder:
    """Builds a :class:`Graph`; one use.

    Args:
        layers: of one phase, in order.
        phase: ``"TRAIN"`` or ``"TEST"``.
        inputs: shapes of the tops of input layers.
        whole: the net's whole graph, where a part of it is built: weights live where they live there, also where the
            layer that owns a shared weight takes no part, and layers built for the same shapes are used again.
        force_backward: the net's field: gradients flow to every bottom.
    """

    def __init__(
        self,
        layers: Sequence[caffe_pb2.LayerParameter],
        phase: str,
        inputs: Mapping[str, Shape],
        whole: Graph | None = None,
        force_backward: bool = False,
    ) -> None:
        self._layers = layers
        self._known = {} if whole is None else {node.key: node for node in whole.nodes}
        self._force_backward = force_backward
        self._trained: set[str] = set()  # blobs that depend on a trained weight
        self._keys = layer_keys(layers)
        self._phase = phase
        self._inputs = inputs
        self._named: dict[str, WeightRef] = {}
        self._graph = Graph()

    def build(self, chosen: Iterable[int] | None = None, made: Mapping[str, Shape] | None = None) -> Graph:
        """The graph of the layers at the given indices; default: all.

        Args:
            chosen: indices, ascending.
            made: shapes of blobs that layers outside of the chosen ones make.
        """
        self._graph.blob_shapes.update(made or {})
        for index in range(len(self._layers)) if chosen is None else chosen:
            self._add(index)
        return self._graph

    def _add(self, index: int) -> None:
        param = self._layers[index]
        shapes = self._graph.blob_shapes
        if param.type in INPUT_TYPES:
            for top in param.top:
                shapes[top] = self._graph.inputs[top] = tuple(self._inputs[top])
            return
        param = with_automatic_top(param)
        layer = self._layer(index, param)
        weights = self._resolve_weights(self._keys[index], layer)
        node = Node(
            index=index,
            key=self._keys[index],
            layer=layer,
            bottoms=tuple(param.bottom),
            tops=tuple(param.top),
            weights=weights,
            loss_weights=loss_weights(param, layer.is_loss),
            stopped=self._stopped(layer),
            propagates=self._propagates(index, layer, weights),
        )
        self._graph.nodes.append(node)
        for top, shape in zip(param.top, layer.top_shapes, strict=True):
            _check_size(layer, f'top "{top}"', shape)
            if top != AUTOMATIC:
                shapes[top] = shape

    def _layer(self, index: int, param: caffe_pb2.LayerParameter) -> Layer:
        """The layer for its bottoms' shapes; one that was built before is used again, as a whole or reshaped."""
        wanted = [self._graph.blob_shapes[bottom] for bottom in param.bottom]
        known = self._known.get(self._keys[index])
        if known is None:
            return make_layer(param, wanted, self._phase)
        return known.layer if known.layer.bottom_shapes == wanted else known.layer.rebuilt(wanted)

    def _propagates(self, index: int, layer: Layer, weights: Sequence[WeightRef]) -> tuple[bool, ...]:
        """Which bottoms Caffe computes gradients for: those above a trained weight, unless the prototxt decides."""
        known = self._known.get(self._keys[index])
        if known is not None:
            return known.propagates
        stated = list(layer.param.propagate_down)
        below = stated or [bottom in self._trained for bottom in layer.param.bottom]
        if any(below) or any(ref.lr_mult != 0 and ref.weight.learnable for ref in weights):
            self._trained.update(layer.param.top)
        wanted = tuple(flows or self._force_backward for flows in below)
        layer.set_propagation(wanted)
        return wanted

    def _stopped(self, layer: Layer) -> tuple[bool, ...]:
        stated = list(layer.param.propagate_down)
        if stated and len(stated) != len(layer.bottom_shapes):
            layer.fail(
                f"propagate_down is given {len(stated)} time(s) for {len(layer.bottom_shapes)} bottom(s); "
                "give one for each, or none."
            )
        return tuple(
            position in layer.no_gradient or (bool(stated) and not stated[position])
            for position in range(len(layer.bottom_shapes))
        )

    def _resolve_weights(self, key: str, layer: Layer) -> tuple[WeightRef, ...]:
        if key in self._known:
            return self._as_known(key, layer)
        specs = layer.param.param
        if len(specs) > len(layer.weights):
            layer.fail(f"param is given {len(specs)} times, but the layer has {len(layer.weights)} weight blob(s).")
        return tuple(
            self._resolve(key, layer, position, specs[position] if position < len(specs) else caffe_pb2.ParamSpec())
            for position in range(len(layer.weights))
        )

    def _as_known(self, key: str, layer: Layer) -> tuple[WeightRef, ...]:
        refs = self._known[key].weights
        wanted, there = [weight.shape for weight in layer.weights], [ref.weight.shape for ref in refs]
        if wanted != there:
            layer.fail(f"the given inputs need weights of shapes {wanted}, but the net's have {there}.")
        return refs

    def _resolve(self, key: str, layer: Layer, position: int, spec: caffe_pb2.ParamSpec) -> WeightRef:
        weight = layer.weights[position]
        trained = weight.learnable and spec.lr_mult != 0
        owner = self._named.get(spec.name) if spec.name else None
        if owner is not None:
            self._check_shared(layer, weight, spec, owner)
            return WeightRef(owner.key, owner.owner, weight, owner.owner_weight, owner.spec, trained)
        if problem := filler_problem(weight.filler):
            layer.fail(problem)
        _check_size(layer, f"weight {position}", weight.shape)
        kept = caffe_pb2.ParamSpec()
        kept.CopyFrom(spec)
        ref = WeightRef(f"{key}/{position}", key, weight, weight, kept, trained)
        self._graph.owned[ref.key] = ref
        if spec.name:
            self._named[spec.name] = ref
        return ref

    @staticmethod
    def _check_shared(layer: Layer, weight: Weight, spec: caffe_pb2.ParamSpec, owner: WeightRef) -> None:
        """Caffe's rules for a shared blob: equal shapes (or counts, if permissive) and no two different multipliers."""
        wanted = owner.owner_weight.shape
        permissive = spec.share_mode == caffe_pb2.ParamSpec.PERMISSIVE
        if weight.shape != wanted and not (permissive and count(weight.shape) == count(wanted)):
            layer.fail(
                f'shares the weight "{spec.name}" of layer "{owner.owner}", but its shape {weight.shape} '
                f"differs from the owner's {wanted}."
            )
        for name in ("lr_mult", "decay_mult"):
            if not spec.HasField(name):
                continue
            stated, known = getattr(spec, name), getattr(owner.spec, name)
            if owner.spec.HasField(name) and stated != known:
                layer.fail(
                    f'{name} (={stated}) differs from {known}, stated before for the shared weight "{spec.name}".'
                )
            setattr(owner.spec, name, stated)
