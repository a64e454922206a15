"""Memory for batches, used again when nobody holds it any more.

Fresh memory for each batch costs a page fault every four kilobytes, which takes as long as copying the pixels.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np

#: Where arrays begin: JAX takes them as they are on CPUs from here.
_ALIGNMENT = 64
#: Pieces of memory that are kept though nobody uses them.
_IDLE = 4


class Buffers:
    """Gives arrays whose memory comes back by itself once the last view of it is gone.

    May be used from several threads; a pickled one arrives empty.

    Example:
        >>> buffers = Buffers()
        >>> first = buffers.empty((2, 3), np.float32)
        >>> address = first.ctypes.data
        >>> del first
        >>> buffers.empty((3, 2), np.float32).ctypes.data == address
        True
    """

    def __init__(self) -> None:
        self._memory: list[np.ndarray] = []
        self._lock = threading.Lock()
        # References to memory that only this object holds, counted the way they are counted below.
        probe = [np.empty(0, np.uint8)]
        self._unused = sys.getrefcount(probe[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return Buffers, ()

    @property
    def count(self) -> int:
        """Pieces of memory that are kept, in use or not."""
        return len(self._memory)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array of any content; views of it keep its memory from being used again."""
        dtype = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with self._lock:
            free = [i for i in range(len(self._memory)) if sys.getrefcount(self._memory[i]) == self._unused]
            fitting = next((i for i in free if len(self._memory[i]) == size + _ALIGNMENT), None)
            if fitting is not None:
                memory = self._memory[fitting]
            else:
                for i in reversed(free[: max(0, len(free) - _IDLE + 1)]):
                    del self._memory[i]
                memory = np.empty(size + _ALIGNMENT, np.uint8)
                self._memory.append(memory)
            start = -memory.ctypes.data % _ALIGNMENT
            found: np.ndarray = memory[start : start + size].view(dtype).reshape(shape)
        return found
