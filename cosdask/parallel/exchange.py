"""How ranks exchange their gradients: one collective of few large buffers, in float32 or narrower.

All functions here are called inside of a computation that is mapped over the ranks' axis, :data:`AXIS`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

AXIS = "data"
#: arrays of fewer numbers than this travel together in one buffer: a round of messages costs ranks that share cores
#: more than a copy of 2 MB does (LeNet with two workers: 44.8 ms a step, 47.0 where its largest array goes alone)
SMALL = 1 << 19


def average(tree: Any, world: int, wire: Any = None) -> Any:
    """The mean over all ranks of every array of a tree: large ones by themselves, small ones in one buffer.

    XLA makes one all-reduce of all of them; joining the large ones too would only copy them.

    Args:
        tree: float32 arrays.
        world: number of ranks.
        wire: the type in which they travel, their sums being made in float32; None: their own.
    """
    if world == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    small = [leaf for leaf in leaves if leaf.size < SMALL]
    buffer = _mean(jnp.concatenate([leaf.ravel() for leaf in small]), world, wire) if small else None
    done, place = [], 0
    for leaf in leaves:
        if leaf.size >= SMALL or buffer is None:
            done.append(_mean(leaf, world, wire))
        else:
            done.append(lax.slice(buffer, (place,), (place + leaf.size,)).reshape(leaf.shape))
            place += leaf.size
    return jax.tree.unflatten(structure, done)


def _mean(array: Any, world: int, wire: Any) -> Any:
    return lax.pmean(array, AXIS) if wire is None else _narrow_mean(array, world, wire)


def _narrow_mean(array: Any, world: int, wire: Any) -> Any:
    """The mean over all ranks of an array that travels in a narrower type.

    An all-reduce in that type would not do: on CPUs XLA widens it to float32 again before it sends, and elsewhere the
    sums themselves would be narrow. So each rank gets everybody's numbers of its own part, adds them in float32 and in
    rank order, and sends the part's mean to all: the two halves of an all-reduce, with as many numbers on the wire.
    """
    flat = jnp.pad(array.ravel(), (0, -array.size % world)).reshape(world, -1)
    parts = _read(lax.all_to_all(_bits(flat, wire), AXIS, 0, 0), wire)
    mine = parts.sum(axis=0) / jnp.float32(world)
    whole = _read(lax.all_gather(_bits(mine, wire), AXIS, tiled=True), wire)
    return lax.slice(whole, (0,), (array.size,)).reshape(array.shape)


def _bits(array: Any, wire: Any) -> Any:
    """Numbers rounded to a type of 16 bits, as plain bits, which no compiler widens on their way."""
    return lax.bitcast_convert_type(array.astype(wire), jnp.uint16)


def _read(bits: Any, wire: Any) -> Any:
    return lax.bitcast_convert_type(bits, wire).astype(jnp.float32)
