"""Blobs as pycaffe's users know them: ``data`` and ``diff`` are NumPy arrays that may be written to at any time.

The numbers live on the device. A NumPy array is made of them when somebody asks for it; from then on it is the truth,
as its owner may write to it whenever he likes, until nobody but the blob holds it any more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import jax
import numpy as np

from cosdask.errors import NetError
from cosdask.nn.execute import from_caffe, to_caffe
from cosdask.nn.layer import Array, Shape, count
from cosdask.nn.user_layers import FourSizes


class Store:
    """Numbers that are on the device and, where asked for, in a NumPy array too.

    Args:
        shape: Caffe's shape.
        axes: the permutation from Caffe's axes to the layout on the device; None where they are the same.
    """

    def __init__(self, shape: Sequence[int], axes: tuple[int, ...] | None = None) -> None:
        self.shape: Shape = tuple(shape)
        self.axes = axes
        self._host: np.ndarray | None = None
        self._device: Array | None = None
        self._later: Callable[[], None] | None = None

    def host(self) -> np.ndarray:
        """The numbers as a writable float32 array of Caffe's shape."""
        self._work_out()
        if self._host is None:
            self._host = np.zeros(self.shape, np.float32)
            if self._device is not None:
                self._host[...] = to_caffe(np.asarray(self._device), self.axes)
        return self._host

    def device(self) -> Array:
        """The numbers on the device, in its layout; what was written to :meth:`host` included."""
        self._work_out()
        if self._host is not None or self._device is None:
            # a copy of its own: what is on the device must not change when the user writes on
            self._device = jax.device_put(np.array(from_caffe(self.host(), self.axes), order="C"))
            self._release()
        return self._device

    def set(self, array: Array) -> None:
        """Take new numbers, in the device's layout; arrays that were handed out show them too."""
        self._device, self._later = array, None
        self.shape = tuple(int(size) for size in to_caffe_shape(array.shape, self.axes))
        self._release()
        if self._host is None:
            return
        if self._host.shape != self.shape:
            self._host = None
        else:
            self._host[...] = to_caffe(np.asarray(array), self.axes)

    def set_later(self, later: Callable[[], None]) -> None:
        """Take new numbers that ``later`` sets when they are asked for; nobody may hold the old ones (:attr:`held`)."""
        self._host, self._device, self._later = None, None, later

    @property
    def waiting(self) -> bool:
        """Whether the numbers have yet to be worked out."""
        return self._later is not None

    def waits_for(self, later: Callable[[], None]) -> bool:
        """Whether ``later`` still has to set the numbers."""
        return self._later is later

    @property
    def held(self) -> bool:
        """Whether somebody holds the NumPy array and may look at it, or write to it, at any time."""
        self._release()
        return self._host is not None

    def _work_out(self) -> None:
        if self._later is not None:
            self._later()

    def fill(self, value: float) -> None:
        """Set all numbers."""
        self._device = self._later = None
        self._release()
        if self._host is not None or value:
            self.host()[...] = value

    @property
    def is_zero(self) -> bool:
        """Whether all numbers are known to be zero."""
        return self._host is None and self._device is None and self._later is None

    def reshape(self, shape: Sequence[int]) -> None:
        """Another shape: the same numbers where there are as many, else zeros."""
        wanted = tuple(shape)
        if wanted == self.shape:
            return
        kept = self.host().reshape(wanted) if count(wanted) == count(self.shape) else None
        self.shape, self._host, self._device, self._later = wanted, kept, None, None

    def _release(self) -> None:
        """Forget the NumPy array where nobody else holds it or a view of it: it can then not be written to."""
        if self._host is not None and sys.getrefcount(self._host) <= _ALONE:
            self._host = None


class _Probe:
    def __init__(self) -> None:
        self._host = np.zeros(1, np.float32)

    def count(self) -> int:
        return sys.getrefcount(self._host)


#: what ``sys.getrefcount`` says of an array that only an attribute holds
_ALONE = _Probe().count()


def to_caffe_shape(shape: Sequence[int], axes: tuple[int, ...] | None) -> Shape:
    """A shape of the device's layout in Caffe's order of axes.

    Example:
        >>> to_caffe_shape((5, 5, 1, 20), (2, 3, 1, 0))
        (20, 1, 5, 5)
    """
    return tuple(shape) if axes is None else tuple(shape[int(place)] for place in np.argsort(axes))


class Blob(FourSizes):
    """A blob of a net: values and gradients, both writable.

    Args:
        shape: Caffe's shape.
        axes: see :class:`Store`.

    Example:
        >>> blob = Blob((2, 3))
        >>> blob.data[...] = 1
        >>> blob.data.sum(), blob.diff.shape, blob.num, blob.count
        (np.float32(6.0), (2, 3), 2, 6)
    """

    def __init__(self, shape: Sequence[int], axes: tuple[int, ...] | None = None) -> None:
        self._data, self._diff = Store(shape, axes), Store(shape, axes)
        self._shape: Shape = tuple(shape)

    def shared_as(self, shape: Sequence[int]) -> Blob:
        """The same numbers under another shape, for layers that share weights permissively."""
        if tuple(shape) == self._shape:
            return self
        twin = object.__new__(Blob)
        twin._data, twin._diff, twin._shape = self._data, self._diff, tuple(shape)
        return twin

    @property
    def values(self) -> Store:
        """Where the values are kept."""
        return self._data

    @property
    def gradients(self) -> Store:
        """Where the gradients are kept."""
        return self._diff

    def put(self, array: Array) -> None:
        """Take new values from the device, and their shape."""
        self._data.set(array)
        self._adopt()

    def put_diff(self, array: Array) -> None:
        """Take new gradients from the device."""
        self._diff.set(array)

    def put_later(self, shape: Shape, later: Callable[[], None]) -> Store:
        """Take new values of this shape when they are asked for (see :meth:`Store.set_later`)."""
        self._data.set_later(later)
        self._data.shape = shape
        self._adopt()
        return self._data

    def put_diff_later(self, later: Callable[[], None]) -> Store:
        """Take new gradients when they are asked for."""
        self._diff.set_later(later)
        return self._diff

    def _adopt(self) -> None:
        if self._shape != self._data.shape:
            self._shape = self._data.shape
            self._diff.reshape(self._shape)

    @property
    def data(self) -> np.ndarray:
        """The values: float32, Caffe's shape; what is written to it counts in the next call."""
        return self._data.host().reshape(self._shape)

    @property
    def diff(self) -> np.ndarray:
        """The gradient: float32, Caffe's shape; backward starts from what is written to it."""
        return self._diff.host().reshape(self._shape)

    @property
    def shape(self) -> Shape:
        """Caffe's shape."""
        return self._shape

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return count(self._shape)

    def reshape(self, *shape: int) -> None:
        """Another shape; the net's other blobs follow with ``net.reshape()`` or the next forward.

        Raises:
            NetError: for sizes below 1.
        """
        sizes = tuple(int(size) for size in shape)
        if any(size < 1 for size in sizes):
            raise NetError(f"a blob cannot have the shape {sizes}: sizes are 1 or more.")
        self._data.reshape(sizes)
        self._diff.reshape(sizes)
        self._shape = sizes

    def __repr__(self) -> str:
        return f"Blob(shape={self._shape})"
