"""What a layer is, and the one registry of layer types.

A layer is built for given bottom shapes: :meth:`Layer.setup` reads the prototxt's fields, checks them, and states the
shapes of the tops and the weights it owns. It is immutable after that, and :meth:`Layer.forward` is a pure JAX
function.

Layouts. Blobs at the edges are in Caffe's layout (N, C, H, W). Inside, convolution-like layers run channels-last,
which is what XLA does fast. A layer class says in :attr:`Layer.layout` what it is given and what it returns:

========  =====================================================================================================
``caffe`` every bottom and top in Caffe's layout (the default, always right)
``last``  4-D bottoms and tops as (N, H, W, C); blobs of other ranks as they are
``any``   elementwise: works in whichever layout the first bottom has; the other bottoms are brought into the same one
========  =====================================================================================================

Shapes in :attr:`Layer.bottom_shapes` and :attr:`Layer.top_shapes` are always Caffe's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NoReturn, TypeVar

import jax
import numpy as np

from cosdask.errors import NetError, did_you_mean
from cosdask.proto import caffe_pb2, own_phase

Shape = tuple[int, ...]
Array = jax.Array
Layout = Literal["caffe", "last", "any"]
Arithmetic = Literal["products", "as_given", "sums", "float32"]


@dataclass(frozen=True)
class Weight:
    """One blob that a layer owns.

    Args:
        shape: Caffe's shape.
        filler: how it starts; None means zeros.
        axes: the permutation from Caffe's axes to the layout it is kept in (HWIO for convolutions: ``(2, 3, 1, 0)``).
        learnable: False for running sums (BatchNorm): they change in the forward pass and their gradient is zero.
        start: the numbers it starts with, where a user's code made them instead of a filler.
    """

    shape: Shape
    filler: caffe_pb2.FillerParameter | None = None
    axes: tuple[int, ...] | None = None
    learnable: bool = True
    start: np.ndarray | None = field(default=None, compare=False)


class Layer:
    """Base of all layers.

    Args:
        param: the layer's prototxt message.
        bottoms: Caffe shapes of the bottoms.
        phase: ``"TRAIN"`` or ``"TEST"``.

    Raises:
        NetError: where a field or a shape cannot work; the text names the layer.
    """

    type: ClassVar[str] = ""
    #: given by the class, or set in setup where it depends on the fields
    layout: Layout = "caffe"
    #: how many bottoms and tops the layer takes: (least, most); None means no upper bound
    n_bottoms: ClassVar[tuple[int, int | None]] = (1, 1)
    n_tops: ClassVar[tuple[int, int | None]] = (1, 1)
    #: bottoms that no gradient flows to (labels, indices)
    no_gradient: tuple[int, ...] = ()
    #: how it computes in bfloat16 nets (see :mod:`cosdask.nn.precision`): ``products`` of bfloat16 factors,
    #: ``as_given`` in the type of its bottoms, ``sums`` in float32 with tops in the type of its bottoms, or all in
    #: ``float32``
    arithmetic: ClassVar[Arithmetic] = "float32"
    #: loss layers give their first top a loss_weight of 1 where the prototxt gives none
    is_loss: ClassVar[bool] = False

    def __init__(self, param: caffe_pb2.LayerParameter, bottoms: Sequence[Shape], phase: str) -> None:
        self.param = param
        self.name: str = param.name
        self.phase = phase
        self.bottom_shapes: list[Shape] = [tuple(shape) for shape in bottoms]
        self.top_shapes: list[Shape] = []
        self.weights: list[Weight] = []
        self._check_count("bottom", len(self.bottom_shapes), self.n_bottoms)
        self._check_count("top", len(param.top), self.n_tops)
        self.setup()

    def setup(self) -> None:
        """Read and check the layer's fields; set :attr:`top_shapes` and :attr:`weights`."""
        raise NotImplementedError

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The tops, from the weights (each kept in its ``Weight.axes``) and the bottoms. Pure.

        ``rng`` is a key of the layer's own, and None where the layer is not :attr:`random`.
        """
        raise NotImplementedError

    def forward_and_update(
        self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None
    ) -> tuple[list[Array], Sequence[Array]]:
        """The tops and the weights after the forward pass; only layers with running sums override it."""
        return self.forward(weights, bottoms, rng), weights

    def rebuilt(self, bottoms: Sequence[Shape]) -> Layer:
        """This layer for bottoms of other shapes."""
        return type(self)(self.param, bottoms, self.phase)

    def set_propagation(self, wanted: Sequence[bool]) -> None:
        """Told by the net which bottoms Caffe propagates to; only layers whose gradient is user's code need it."""

    @property
    def random(self) -> bool:
        """Whether this layer draws random numbers in this phase."""
        return False

    def fail(self, problem: str) -> NoReturn:
        """Raise a NetError that names this layer; ``problem`` is field, value, rule and remedy."""
        raise NetError(f'layer "{self.name}" ({self.type}): {problem}', layer=self.name)

    def _check_count(self, what: str, count: int, bounds: tuple[int, int | None]) -> None:
        least, most = bounds
        if count < least or (most is not None and count > most):
            wanted = str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"
            self.fail(f"takes {wanted} {what} blob(s), but {count} are given.")


LayerClass = TypeVar("LayerClass", bound=type[Layer])
REGISTRY: dict[str, type[Layer]] = {}


def register(*names: str) -> Callable[[LayerClass], LayerClass]:
    """Class decorator: make a layer type known under the name that prototxts use."""

    def add(cls: LayerClass) -> LayerClass:
        for name in names:
            cls.type = name
            REGISTRY[name] = cls
        return cls

    return add


_USERS: dict[str, type[Layer]] = {}


def register_layer(name: str) -> Callable[[LayerClass], LayerClass]:
    """Class decorator for layer types of the user's own; ranks on workers get them too.

    Args:
        name: the ``type`` that prototxts use; a type of Caffe's is replaced in this session.

    Example:
        >>> @register_layer("Double")
        ... class Double(Layer):
        ...     layout = "any"
        ...
        ...     def setup(self):
        ...         self.top_shapes = [self.bottom_shapes[0]]
        ...
        ...     def forward(self, weights, bottoms, rng):
        ...         return [2 * bottoms[0]]
    """

    def add(cls: LayerClass) -> LayerClass:
        if not (isinstance(cls, type) and issubclass(cls, Layer)):
            raise NetError(f'register_layer("{name}") wants a subclass of cosdask.nn.Layer, not {cls!r}.')
        _USERS[name] = cls
        return register(name)(cls)

    return add


def registered_layers() -> dict[str, type[Layer]]:
    """The user's own layer types by name."""
    return dict(_USERS)


def make_layer(param: caffe_pb2.LayerParameter, bottoms: Sequence[Shape], phase: str) -> Layer:
    """Build the layer a prototxt message asks for; where it states a phase of its own, it runs in that, as in Caffe.

    Raises:
        NetError: for a type that nobody registered (with the nearest names), or settings that cannot work.
    """
    cls = REGISTRY.get(param.type)
    if cls is None:
        raise NetError(
            f'layer "{param.name}": unknown layer type "{param.type}".'
            f"{did_you_mean(param.type, REGISTRY)} Types of your own are added with cosdask.register_layer.",
            layer=param.name,
        )
    return cls(param, bottoms, own_phase(param, phase))


def canonical_axis(layer: Layer, axis: int, rank: int, field: str = "axis") -> int:
    """Caffe's axis rule: negative axes count from the end.

    Raises:
        NetError: where the axis is outside of [-rank, rank).
    """
    if not -rank <= axis < rank:
        layer.fail(f"{field} (={axis}) must be in [-{rank}, {rank}) for a bottom of {rank} axes.")
    return axis % rank


def count(shape: Sequence[int]) -> int:
    """Number of elements of a shape.

    Example:
        >>> count((2, 3, 4))
        24
    """
    total = 1
    for size in shape:
        total *= size
    return total


__all__ = [
    "REGISTRY",
    "Arithmetic",
    "Array",
    "Layer",
    "Layout",
    "Shape",
    "Weight",
    "canonical_axis",
    "count",
    "make_layer",
    "register",
    "register_layer",
    "registered_layers",
]
