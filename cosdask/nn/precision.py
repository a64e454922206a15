"""In what precision a net computes: float32, TF32 or bfloat16. Weights, running sums and losses are always float32.

``float32``   products of float32 numbers, exact as Caffe's
``tf32``      products on a GPU's tensor cores, whose factors keep 10 bits behind the point; on CPUs the same as float32
``bfloat16``  layers of products take bfloat16 factors and give bfloat16 blobs; layers in between keep what they are
              given; sums over many values (BatchNorm, LRN, losses) are made in float32
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp

from cosdask.config import PRECISIONS
from cosdask.errors import ConfigError, did_you_mean
from cosdask.nn.layer import Array, Layer


def check_precision(name: str) -> str:
    """The name, if it is one of :data:`PRECISIONS`.

    Raises:
        ConfigError: it is none.
    """
    if name not in PRECISIONS:
        raise ConfigError(f'precision="{name}" is none of {", ".join(PRECISIONS)}.{did_you_mean(name, PRECISIONS)}')
    return name


def products(precision: str) -> AbstractContextManager[None]:
    """How products of float32 numbers are made, in the forward pass and in gradients traced inside."""
    # jax's own default on GPUs is TF32, silently
    context: AbstractContextManager[None] = jax.default_matmul_precision(
        "tensorfloat32" if precision == "tf32" else "highest"
    )
    return context


def cast_in(
    layer: Layer, weights: Sequence[Array], bottoms: Sequence[Array], precision: str
) -> tuple[list[Array], list[Array]]:
    """Weights and bottoms as the layer wants them in this precision.

    Labels and indices, to which no gradient flows, stay float32: bfloat16 has no odd numbers above 256.
    """
    weights, bottoms = list(weights), list(bottoms)
    if precision != "bfloat16":
        return weights, bottoms
    wanted = _arithmetic(layer, bottoms)
    cast = [b if i in layer.no_gradient and wanted != jnp.float32 else b.astype(wanted) for i, b in enumerate(bottoms)]
    learned = [
        weight.astype(wanted) if kind.learnable else weight for weight, kind in zip(weights, layer.weights, strict=True)
    ]
    return learned, cast


def _arithmetic(layer: Layer, bottoms: Sequence[Array]) -> jnp.dtype:
    """The type that a layer computes in."""
    if layer.arithmetic == "products":
        return jnp.dtype(jnp.bfloat16)
    given = {bottom.dtype for i, bottom in enumerate(bottoms) if i not in layer.no_gradient}
    if layer.arithmetic == "as_given" and given == {jnp.dtype(jnp.bfloat16)}:
        return jnp.dtype(jnp.bfloat16)
    return jnp.dtype(jnp.float32)


def cast_out(layer: Layer, tops: Sequence[Array], bottoms: Sequence[Array]) -> list[Array]:
    """Tops as they are kept: layers of sums give back the type that they were given."""
    if layer.arithmetic != "sums" or not bottoms or bottoms[0].dtype == jnp.float32:
        return list(tops)
    first, *others = tops  # the places of a max pooling stay exact
    return [first.astype(bottoms[0].dtype), *others]


__all__ = ["PRECISIONS", "cast_in", "cast_out", "check_precision", "products"]
