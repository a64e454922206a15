"""SPP: spatial pyramid pooling, for fixed-size features of images of any size."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cosdask.nn.layer import Array, Layer, Shape, count, register
from cosdask.nn.layers.pooling import Pooling
from cosdask.proto import caffe_pb2


@register("SPP")
class SPP(Layer):
    """Pools the whole image into 1x1, 2x2, 4x4, ... bins, one grid for each level of the pyramid (He et al. 2014).

    Bottom (N, C, H, W). Top (N, C * bins of all levels), level by level; with one level only it stays (N, C, 1, 1).
    The window of a level is the image's size over its bins, rounded up; what is missing is padded on both sides.
    """

    arithmetic = "sums"

    layout = "last"

    def setup(self) -> None:
        """Build one pooling a level.

        Raises:
            NetError: where the bottom is no image, or is too small for the pyramid.
        """
        if len(self.bottom_shapes[0]) != 4:
            self.fail(f"needs a bottom (N, C, H, W), not shape {self.bottom_shapes[0]}.")
        levels = self.param.spp_param.pyramid_height
        if not 1 <= levels <= 16:
            self.fail(f"spp_param pyramid_height (={levels}) must be from 1 to 16.")
        self.levels = [self._pooling(2**level) for level in range(levels)]
        shapes: list[Shape] = [level.top_shapes[0] for level in self.levels]
        flat = (shapes[0][0], sum(count(shape[1:]) for shape in shapes))
        self.top_shapes = [shapes[0] if levels == 1 else flat]

    def _pooling(self, bins: int) -> Pooling:
        param = caffe_pb2.LayerParameter(name=self.name, type="Pooling", bottom=["x"], top=["y"])
        pooling = param.pooling_param
        pooling.pool = _POOL[self.param.spp_param.pool]
        height, width = self.bottom_shapes[0][2:]
        pooling.kernel_h, pooling.kernel_w = -(-height // bins), -(-width // bins)
        pooling.stride_h, pooling.stride_w = pooling.kernel_h, pooling.kernel_w
        pooling.pad_h = (pooling.kernel_h * bins - height + 1) // 2
        pooling.pad_w = (pooling.kernel_w * bins - width + 1) // 2
        if pooling.pad_h >= pooling.kernel_h or pooling.pad_w >= pooling.kernel_w:
            self.fail(f"an image of {height} x {width} is too small for {bins} x {bins} bins; lower pyramid_height.")
        return Pooling(param, self.bottom_shapes, self.phase)

    @property
    def random(self) -> bool:
        """Whether the pooling is stochastic and this is the training phase."""
        return any(level.random for level in self.levels)

    def forward(self, weights: Sequence[Array], bottoms: Sequence[Array], rng: Array | None) -> list[Array]:
        """The pooled values of all levels in Caffe's order, (N, features), or (N, 1, 1, C) for a single level."""
        keys = [None] * len(self.levels) if rng is None else list(jax.random.split(rng, len(self.levels)))
        pooled = [level.forward((), bottoms, key)[0] for level, key in zip(self.levels, keys, strict=True)]
        if len(pooled) == 1:
            return pooled
        flat = [level.transpose(0, 3, 1, 2).reshape(level.shape[0], -1) for level in pooled]
        return [jnp.concatenate(flat, axis=1)]


_POOL = {
    caffe_pb2.SPPParameter.MAX: caffe_pb2.PoolingParameter.MAX,
    caffe_pb2.SPPParameter.AVE: caffe_pb2.PoolingParameter.AVE,
    caffe_pb2.SPPParameter.STOCHASTIC: caffe_pb2.PoolingParameter.STOCHASTIC,
}


__all__ = ["SPP"]
