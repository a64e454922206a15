"""DummyData: tops made by fillers, for trying nets without data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp

from cosdask.errors import NetError
from cosdask.nn.fillers import fill, needs_rng
from cosdask.nn.layer import Array, Layer, Shape, register
from cosdask.proto import caffe_pb2

T = TypeVar("T")


@register("DummyData")
class DummyData(Layer):
    """Gives tops of stated shapes filled by ``data_filler`` (default: zeros). It has no bottoms.

    Shapes are given by ``shape``, or by the old ``num``, ``channels``, ``height``, ``width``; each of these and the
    filler once for all tops or once for each. Fillers other than constants draw new numbers each time.
    """

    n_bottoms = (0, 0)
    n_tops = (1, None)

    def setup(self) -> None:
        """Read shapes and fillers.

        Raises:
            NetError: where their number does not fit the tops, or a filler cannot work.
        """
        given = list(self.param.dummy_data_param.data_filler)
        self.fillers = self._for_each_top("data_filler", given or [caffe_pb2.FillerParameter()])
        self.top_shapes = self._shapes()
        key = jax.eval_shape(jax.random.key, 0)
        for filler, shape in zip(self.fillers, self.top_shapes, strict=True):
            try:
                jax.eval_shape(partial(_filled, filler, shape), key)
            except NetError as error:
                self.fail(f"data_filler: {error}")

    def _shapes(self) -> list[Shape]:
        param = self.param.dummy_data_param
        old = [list(param.num), list(param.channels), list(param.height), list(param.width)]
        if param.shape and any(old):
            self.fail("give shape, or the old num, channels, height and width, not both.")
        if param.shape:
            shapes = [tuple(shape.dim) for shape in self._for_each_top("shape", list(param.shape))]
        else:
            names = ("num", "channels", "height", "width")
            sizes = [self._for_each_top(name, values) for name, values in zip(names, old, strict=True)]
            shapes = list(zip(*sizes, strict=True))
        if any(size < 1 for shape in shapes for size in shape):
            self.fail(f"shapes {shapes} need sizes of 1 or more.")
        return shapes

    def _for_each_top(self, field: str, values: list[T]) -> list[T]:
        tops = len(self.param.top)
        if len(values) not in (1, tops):
            self.fail(f"{field} is given {len(values)} times; give it once, or once for each of the {tops} tops.")
        return values * tops if len(values) == 1 else values

    @property
    def random(self) -> bool:
        """Whether any filler draws random numbers."""
        return any(needs_rng(filler) for filler in self.fillers)

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The filled tops, float32."""
        return [
            _filled(filler, shape, None if rng is None else jax.random.fold_in(rng, index))
            for index, (filler, shape) in enumerate(zip(self.fillers, self.top_shapes, strict=True))
        ]


def _filled(filler: caffe_pb2.FillerParameter, shape: Shape, key: Array | None) -> Array:
    return jnp.asarray(fill(filler, shape, key))


__all__ = ["DummyData"]
