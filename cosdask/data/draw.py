"""Random numbers of rows: a function of seed, epoch and row, whoever reads the row and whenever."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

# Constants of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_WORD = (1 << 64) - 1


def _mix(words: np.ndarray) -> np.ndarray:
    """SplitMix64's output function; uint64 arrays wrap round."""
    words = words + _STEP
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))


def _mixed(word: int) -> int:
    """What :func:`_mix` gives for one number; arrays of one would take ten times as long."""
    word = (word + int(_STEP)) & _WORD
    word = (word ^ (word >> 30)) * int(_FIRST) & _WORD
    word = (word ^ (word >> 27)) * int(_SECOND) & _WORD
    return word ^ (word >> 31)


@lru_cache(maxsize=4096)
def _state(seed: int, stream: int, epoch: int) -> np.uint64:
    """What all rows of an epoch have in common."""
    state = _mixed(seed & _WORD ^ _mixed(stream & _WORD))
    return np.uint64(_mixed(state ^ _mixed(epoch & _WORD)))


@dataclass(frozen=True)
class Draw:
    """The rows being read and what their random numbers hang on.

    Args:
        seed: the run's seed.
        epoch: how often the rows were read before.
        rows: int64 (n,), each row's number in storage order.
        stream: tells apart numbers drawn for different purposes from the same row.

    Example:
        >>> whole = Draw(7, 0, np.arange(6)).below(10, 0)
        >>> part = Draw(7, 0, np.arange(4, 6)).below(10, 0)
        >>> bool((whole[4:] == part).all())
        True
    """

    seed: int
    epoch: int
    rows: np.ndarray
    stream: int = 0

    @classmethod
    def of(cls, seed: int, epoch: int, start: int, stop: int) -> Draw:
        """The draw of rows ``start`` to ``stop``."""
        return cls(seed, epoch, np.arange(start, stop, dtype=np.int64))

    def fork(self, stream: int) -> Draw:
        """The same rows with independent numbers."""
        return Draw(self.seed, self.epoch, self.rows, self.stream * 1009 + stream + 1)

    def bits(self, purpose: int) -> np.ndarray:
        """Uniform uint64 (n,); ``purpose`` tells independent numbers of one row apart."""
        return _mix(self._of_rows ^ np.uint64(_mixed(purpose & _WORD)))

    @cached_property
    def _of_rows(self) -> np.ndarray:
        """uint64 (n,), from which the numbers for all purposes are made."""
        return _mix(_state(self.seed, self.stream, self.epoch) ^ self.rows.astype(np.uint64))

    def below(self, limit: int | np.ndarray, purpose: int) -> np.ndarray:
        """Uniform int64 (n,) in [0, limit); ``limit`` (a number or one a row) is at least 1."""
        return (self.bits(purpose) % np.asarray(limit, dtype=np.uint64)).astype(np.int64)

    def flips(self, purpose: int) -> np.ndarray:
        """Flags (n,), bool, True for half of the rows."""
        return (self.bits(purpose) >> np.uint64(63)).astype(np.bool_)
