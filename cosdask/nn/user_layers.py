"""What users' Python layers are written against: ``caffe.Layer`` and the blobs that it is given.

The names and their behaviour are pycaffe's, so that existing classes run unchanged. :mod:`cosdask.nn.layers.python`
runs them as part of a net; :mod:`cosdask.nn.user_code` finds and loads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cosdask.errors import NetError
from cosdask.proto import caffe_pb2


class FourSizes:
    """The sizes of a blob by the names that they had when every blob had four axes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        raise NotImplementedError

    def _legacy(self, axis: int) -> int:
        if len(self.shape) > 4:
            raise NetError(f"num, channels, height and width are for blobs of up to 4 axes, not {self.shape}.")
        return self.shape[axis] if axis < len(self.shape) else 1

    @property
    def num(self) -> int:
        """The first of four sizes; missing ones are 1."""
        return self._legacy(0)

    @property
    def channels(self) -> int:
        """The second of four sizes."""
        return self._legacy(1)

    @property
    def height(self) -> int:
        """The third of four sizes."""
        return self._legacy(2)

    @property
    def width(self) -> int:
        """The fourth of four sizes."""
        return self._legacy(3)


class Blob(FourSizes):
    """Numbers and their gradient, float32 arrays that may be written to.

    Args:
        *shape: sizes of the axes.

    Example:
        >>> blob = Blob(2, 3)
        >>> blob.data[...] = 1
        >>> blob.shape, blob.count, blob.num, float(blob.data.sum())
        ((2, 3), 6, 2, 6.0)
    """

    def __init__(self, *shape: int) -> None:
        self._data = np.zeros(shape, np.float32)
        self._diff = np.zeros(shape, np.float32)

    @property
    def data(self) -> np.ndarray:
        """The values."""
        return self._data

    @property
    def diff(self) -> np.ndarray:
        """The gradient."""
        return self._diff

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self._data.shape

    @property
    def count(self) -> int:
        """How many values there are."""
        return self._data.size

    def reshape(self, *shape: int) -> None:
        """Give the blob another shape; the values are zero afterwards unless there are as many as before.

        Raises:
            NetError: a negative size.
        """
        sizes = tuple(int(size) for size in shape)
        if any(size < 0 for size in sizes):
            raise NetError(f"a blob cannot have the shape {sizes}.")
        if sizes == self.shape:
            return
        if int(np.prod(sizes, dtype=np.int64)) == self.count:
            self._data, self._diff = self._data.reshape(sizes), self._diff.reshape(sizes)
        else:
            self._data, self._diff = np.zeros(sizes, np.float32), np.zeros(sizes, np.float32)


class BlobVec(Sequence[Any]):
    """A layer's own weights: ``self.blobs.add_blob(3, 4)`` in ``setup`` adds one, ``self.blobs[0]`` is it."""

    def __init__(self) -> None:
        self._blobs: list[Blob] = []

    def add_blob(self, *shape: int) -> None:
        """Add a blob of zeros; what ``setup`` writes into its ``data`` are the first weights."""
        self._blobs.append(Blob(*shape))

    def __getitem__(self, index: Any) -> Any:
        return self._blobs[index]

    def __len__(self) -> int:
        return len(self._blobs)

    def __iter__(self) -> Iterator[Blob]:
        return iter(self._blobs)


class Layer:
    """Base of a user's layer in NumPy; ``caffe.Layer`` in their modules.

    A subclass has ``setup`` (once), ``reshape`` (before every forward pass: give the tops their shapes), ``forward``
    (fill ``top[i].data``) and ``backward`` (fill ``bottom[i].diff`` where ``propagate_down[i]``, add to
    ``self.blobs[i].diff``).

    Args:
        param: the layer's message.

    Attributes:
        param_str: ``python_param.param_str`` of the prototxt.
        phase: 0 in TRAIN, 1 in TEST.
        blobs: the layer's weights.
    """

    def __init__(self, param: caffe_pb2.LayerParameter) -> None:
        self.param_str: str = param.python_param.param_str
        self.phase: int = param.phase
        self.blobs = BlobVec()

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read ``param_str``, check the number of blobs, add weights."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops their shapes."""
        raise NotImplementedError(f"{type(self).__name__} has no reshape(self, bottom, top)")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Fill the tops."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(self, bottom, top)")

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Fill the gradients of the bottoms and of the weights."""
        raise NotImplementedError(f"{type(self).__name__} has no backward(self, top, propagate_down, bottom)")


__all__ = ["Blob", "BlobVec", "Layer"]
