"""Any number of rows through a net, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cosdask.errors import NetError

if TYPE_CHECKING:
    from cosdask.pycaffe.net import Net

Arrays = dict[str, np.ndarray]
#: keyword arguments, which may have any name
Batch = dict[str, Any]


def forward_all(net: Net, blobs: Iterable[str] | None, arrays: Mapping[str, Any]) -> Arrays:
    """See :meth:`Net.forward_all`."""
    names, rows = list(blobs or []), _rows(arrays)
    parts: dict[str, list[np.ndarray]] = {}
    for batch in _batches(net, arrays):
        _collect(parts, net.forward(blobs=names, **batch))
    return _joined(parts, rows)


def forward_backward_all(
    net: Net, blobs: Iterable[str] | None, diffs: Iterable[str] | None, arrays: Mapping[str, Any]
) -> tuple[Arrays, Arrays]:
    """See :meth:`Net.forward_backward_all`."""
    names, wanted, rows = list(blobs or []), list(diffs or []), _rows(arrays)
    outs: dict[str, list[np.ndarray]] = {}
    grads: dict[str, list[np.ndarray]] = {}
    inputs = {name: array for name, array in arrays.items() if name in net.inputs}
    tops = {name: array for name, array in arrays.items() if name not in net.inputs}
    for batch, top in zip(_batches(net, inputs), _batches(net, tops) if tops else _nothing(), strict=False):
        _collect(outs, net.forward(blobs=names, **batch))
        _collect(grads, net.backward(diffs=wanted, **top))
    return _joined(outs, rows), _joined(grads, rows)


def _nothing() -> Iterator[Batch]:
    while True:
        yield {}


def _rows(arrays: Mapping[str, Any]) -> int:
    counts = {name: len(array) for name, array in arrays.items()}
    if not counts or len(set(counts.values())) > 1 or 0 in counts.values():
        raise NetError(f"give arrays of equally many rows, at least one, for all inputs; given: {counts or 'none'}.")
    return next(iter(counts.values()))


def _batches(net: Net, arrays: Mapping[str, Any]) -> Iterator[Batch]:
    """The arrays cut into the net's batches; the last one is filled up with zeros."""
    for name in arrays:
        if name not in net.blobs:
            raise NetError(f'the net has no blob "{name}"; its inputs are {", ".join(net.inputs) or "none"}.')
    size = net.blobs[next(iter(arrays))].shape[0]
    rows = len(next(iter(arrays.values())))
    for start in range(0, rows, size):
        batch: Batch = {}
        for name, array in arrays.items():
            part = np.asarray(array[start : start + size], np.float32)
            missing = size - len(part)
            batch[name] = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.float32)]) if missing else part
        yield batch


def _collect(parts: dict[str, list[np.ndarray]], found: Arrays) -> None:
    for name, array in found.items():
        parts.setdefault(name, []).append(np.atleast_1d(array).copy())


def _joined(parts: dict[str, list[np.ndarray]], rows: int) -> Arrays:
    return {name: np.concatenate(arrays)[:rows] for name, arrays in parts.items()}
