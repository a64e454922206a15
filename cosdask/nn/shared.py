"""What ranks of one training may share inside of a step: BatchNorm's statistics and the count a loss is divided by.

Caffe normalizes per device. With these options a step of N ranks is the step of one device with N times the batch, for
BatchNorm and for losses divided by their labels that count (``VALID``) too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from jax import lax

from cosdask.nn.layer import Array

What = Literal["batch_norm", "loss"]


@dataclass(frozen=True)
class Shared:
    """What is shared, and over which mapped axis (of ``shard_map`` or ``vmap``).

    Attributes:
        axis: the axis whose index is the rank.
        batch_norm: means and variances are those of all ranks' batches together.
        loss: losses are divided by the mean count of labels over ranks, so that each label counts the same.
    """

    axis: str
    batch_norm: bool = False
    loss: bool = False


_shared: ContextVar[Shared | None] = ContextVar("shared", default=None)


@contextmanager
def sharing(shared: Shared | None) -> Iterator[None]:
    """Trace what is inside with ranks that share; None shares nothing."""
    token = _shared.set(shared)
    try:
        yield
    finally:
        _shared.reset(token)


def is_shared(what: What) -> bool:
    """Whether this is shared where the caller is traced."""
    shared = _shared.get()
    return shared is not None and bool(getattr(shared, what))


def mean_over_ranks(value: Array, what: What) -> Array:
    """The mean of a value over the ranks that share it; the value itself where it is not shared."""
    shared = _shared.get()
    if shared is None or not getattr(shared, what):
        return value
    mean: Array = lax.pmean(value, shared.axis)
    return mean


def sharing_ranks(what: What) -> int:
    """How many ranks share; 1 where nothing is shared."""
    shared = _shared.get()
    return int(lax.axis_size(shared.axis)) if shared is not None and getattr(shared, what) else 1


__all__ = ["Shared", "is_shared", "mean_over_ranks", "sharing", "sharing_ranks"]
