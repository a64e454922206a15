"""Python: users' existing classes in NumPy as layers of a compiled net.

The class runs on the host, called from the compiled function (``jax.pure_callback``) for the forward pass and, through
``jax.custom_vjp``, for the backward pass. That costs a copy to the host and back each time; layers written in JAX with
:func:`cosdask.register_layer` cost nothing of the kind.
"""

from __future__ import annotations

import copy
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cosdask.errors import NetError
from cosdask.nn.layer import Array, Layer, Shape, Weight, register
from cosdask.nn.user_code import python_layer_class
from cosdask.nn.user_layers import Blob
from cosdask.nn.user_layers import Layer as UserLayer
from cosdask.proto import caffe_pb2

Arrays = Sequence[Any]


class Host:
    """A user's layer object with its blobs; one for each layer of a net, whatever shapes it runs with.

    Calls come from the threads of compiled programs, one at a time.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, phase: str, bottoms: int) -> None:
        names = param.python_param
        own = caffe_pb2.LayerParameter()
        own.CopyFrom(param)
        own.phase = caffe_pb2.TRAIN if phase == "TRAIN" else caffe_pb2.TEST
        self.label = f'layer "{param.name}" (Python): {names.module}.{names.layer}'
        self.name = param.name
        self.user: UserLayer = python_layer_class(names.module, names.layer, param.name)(own)
        self.bottoms = [Blob() for _ in range(bottoms)]
        # a top that has its bottom's name is the same blob, as in Caffe
        in_place = dict(zip(param.bottom, self.bottoms, strict=False))
        self.tops = [in_place.get(name) or Blob() for name in param.top]
        self.in_place = [any(blob is top for top in self.tops) for blob in self.bottoms]
        self.calls = 0
        self._ready = False
        self._lock = threading.RLock()

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """The tops' shapes for bottoms of these shapes; the first call sets the layer up."""
        with self._lock:
            self._put([np.zeros(shape, np.float32) for shape in bottoms])
            if not self._ready:
                self._run("setup", self.bottoms, self.tops)
                self._ready = True
            self._run("reshape", self.bottoms, self.tops)
            return [top.shape for top in self.tops]

    def forward(self, weights: Arrays, bottoms: Arrays, shapes: Sequence[Shape]) -> tuple[Any, ...]:
        """The tops, the weights after it, and a number that names this call."""
        with self._lock:
            self._forward(weights, bottoms, shapes)
            tops = tuple(top.data.copy() for top in self.tops)
            return tops, tuple(blob.data.copy() for blob in self.user.blobs), np.int32(self.calls)

    def _forward(self, weights: Arrays, bottoms: Arrays, shapes: Sequence[Shape]) -> None:
        self._put(bottoms)
        for blob, weight in zip(self.user.blobs, weights, strict=True):
            blob.data[...] = weight
        self._run("reshape", self.bottoms, self.tops)
        self._run("forward", self.bottoms, self.tops)
        self.calls += 1
        for index, (top, shape) in enumerate(zip(self.tops, shapes, strict=True)):
            if top.shape != shape:
                self._fail(
                    f"forward gave top {index} the shape {top.shape}, but reshape stated {shape} when the net was "
                    "built. A compiled net has fixed shapes: let the layer give the same shape each time."
                )

    def backward(
        self,
        weights: Arrays,
        bottoms: Arrays,
        shapes: Sequence[Shape],
        call: Any,
        diffs: Arrays,
        wanted: Sequence[bool],
    ) -> tuple[Any, ...]:
        """The gradients of weights and bottoms. The layer is brought back to the call that they belong to."""
        with self._lock:
            if int(call) != self.calls:
                self._forward(weights, bottoms, shapes)
            for top, diff in zip(self.tops, diffs, strict=True):
                top.diff[...] = diff
            for blob, shared in zip(self.bottoms, self.in_place, strict=True):
                if not shared:
                    blob.diff[...] = 0
            for blob in self.user.blobs:
                blob.diff[...] = 0
            self._run("backward", self.tops, list(wanted), self.bottoms)
            of_bottoms = tuple(
                blob.diff.copy() if flows else np.zeros_like(blob.diff)
                for blob, flows in zip(self.bottoms, wanted, strict=True)
            )
            return tuple(blob.diff.copy() for blob in self.user.blobs), of_bottoms

    def _put(self, arrays: Arrays) -> None:
        for blob, array in zip(self.bottoms, arrays, strict=True):
            blob.reshape(*array.shape)
            blob.data[...] = array

    def _run(self, method: str, *arguments: Any) -> None:
        try:
            getattr(self.user, method)(*arguments)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{last.filename}:{last.lineno}"
            self._fail(f"{method} raised {type(error).__name__}: {error} ({place}).", error)

    def _fail(self, problem: str, cause: Exception | None = None) -> None:
        failure = NetError(f"{self.label}: {problem}", layer=self.name)
        failure.__cause__ = cause
        _failures.append(failure)
        del _failures[:-_FAILURES_KEPT]
        raise failure


_failures: list[NetError] = []
_FAILURES_KEPT = 8


@contextmanager
def user_errors() -> Iterator[None]:
    """What users' layers raised inside of compiled functions comes out as the error that names the layer."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        for failure in reversed(_failures):
            if failure.message in text:  # another error may come while an old failure is still kept
                _failures.clear()
                raise failure from failure.__cause__
        raise


@register("Python")
class Python(Layer):
    """A class of the user's own, ``python_param { module: "..." layer: "..." param_str: "..." }``.

    The class derives from ``caffe.Layer`` and works on NumPy blobs (:mod:`cosdask.nn.user_layers`). Without bottoms it
    is a data layer: each forward pass calls it once. Its weights are the blobs that ``setup`` adds; one whose ``param``
    states ``lr_mult: 0`` keeps what ``forward`` writes into it. No gradient flows to bottoms that Caffe would not
    propagate to: those that depend on no weight, unless ``force_backward`` asks for it, and those that
    ``propagate_down`` excludes.
    """

    n_bottoms = (0, None)
    n_tops = (0, None)

    def setup(self) -> None:
        """Set the user's object up, and learn its shapes and weights.

        Raises:
            NetError: for a module that is not allowed, a class that is missing, or what the user's code raises.
        """
        self.host = Host(self.param, self.phase, len(self.bottom_shapes))
        self.wanted = (True,) * len(self.bottom_shapes)
        self.top_shapes = self.host.shapes(self.bottom_shapes)
        specs = list(self.param.param)
        self.weights = [
            Weight(
                blob.shape,
                learnable=not (index < len(specs) and specs[index].lr_mult == 0),
                start=blob.data.copy(),
            )
            for index, blob in enumerate(self.host.user.blobs)
        ]
        self._call = self._differentiable()

    def rebuilt(self, bottoms: Sequence[Shape]) -> Layer:
        """This layer for bottoms of other shapes: the same object of the user's, as Caffe reshapes it."""
        twin = copy.copy(self)
        twin.bottom_shapes = [tuple(shape) for shape in bottoms]
        twin.top_shapes = self.host.shapes(twin.bottom_shapes)
        twin._call = twin._differentiable()
        return twin

    def set_propagation(self, wanted: Sequence[bool]) -> None:
        """Take in which bottoms Caffe propagates to."""
        self.wanted = tuple(wanted)

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """What the user's ``forward`` gives."""
        return self.forward_and_update(weights, bottoms, rng)[0]

    def forward_and_update(
        self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None
    ) -> tuple[list[Array], Sequence[Array]]:
        """The tops, and the weights as ``forward`` left them."""
        if not self.top_shapes:
            self._without_tops(weights, bottoms)
            return [], weights
        tops, after = self._call(tuple(weights), tuple(bottoms))
        return list(tops), after

    def _without_tops(self, weights: Sequence[Array], bottoms: Sequence[Array]) -> None:
        """A layer that only looks on; an ordinary call would be left out, as nobody needs what it gives."""

        def look(weights: Arrays, bottoms: Arrays) -> None:
            self.host.forward(_on_host(weights), _on_host(bottoms), ())

        stopped = [jax.lax.stop_gradient(array) for array in bottoms]
        jax.debug.callback(look, list(map(jax.lax.stop_gradient, weights)), stopped)

    def _differentiable(self) -> Callable[..., Any]:
        """The layer as a function of weights and bottoms with the user's own gradient."""
        host, tops = self.host, [tuple(shape) for shape in self.top_shapes]
        blobs = [weight.shape for weight in self.weights]
        bottom_shapes = list(self.bottom_shapes)

        def outer(weights: Any, bottoms: Any) -> tuple[Any, Any, Any]:
            def run(weights: Arrays, bottoms: Arrays) -> Any:
                return host.forward(_on_host(weights), _on_host(bottoms), tops)

            shapes = (_struct(tops), _struct(blobs), jax.ShapeDtypeStruct((), jnp.int32))
            found: tuple[Any, Any, Any] = jax.pure_callback(run, shapes, weights, bottoms, vmap_method="sequential")
            return found

        @jax.custom_vjp
        def call(weights: Any, bottoms: Any) -> Any:
            return outer(weights, bottoms)[:2]

        def forward(weights: Any, bottoms: Any) -> Any:
            made, after, number = outer(weights, bottoms)
            return (made, after), (weights, bottoms, number)

        def backward(saved: Any, gradients: Any) -> Any:
            weights, bottoms, number = saved

            def run(weights: Arrays, bottoms: Arrays, number: Any, diffs: Arrays) -> Any:
                given = _on_host(weights), _on_host(bottoms)
                return host.backward(*given, tops, np.asarray(number), _on_host(diffs), self.wanted)

            shapes = (_struct(blobs), _struct(bottom_shapes))
            if not (any(self.wanted) or blobs):
                return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
            return jax.pure_callback(run, shapes, weights, bottoms, number, gradients[0], vmap_method="sequential")

        call.defvjp(forward, backward)
        return call


def _struct(shapes: Sequence[Shape]) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(tuple(shape), jnp.float32) for shape in shapes)


def _on_host(arrays: Arrays) -> list[np.ndarray]:
    """Copies that the user's code may write to."""
    return [np.array(array, np.float32) for array in arrays]


__all__ = ["Python", "user_errors"]
