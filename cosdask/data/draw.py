"""Random numbers of rows: a function of seed, epoch and row, whoever reads the row and whenever."""

from __future__ import annotations

from dataclasses import dataclass

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


def _word(number: int) -> np.ndarray:
    return np.array([number & _WORD], dtype=np.uint64)


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
        state = _mix(_word(self.seed) ^ _mix(_word(self.stream)))
        state = _mix(state ^ _mix(_word(self.epoch)))
        return _mix(_mix(state ^ self.rows.astype(np.uint64)) ^ _mix(_word(purpose)))

    def below(self, limit: int | np.ndarray, purpose: int) -> np.ndarray:
        """Uniform int64 (n,) in [0, limit); ``limit`` (a number or one a row) is at least 1."""
        return (self.bits(purpose) % np.asarray(limit, dtype=np.uint64)).astype(np.int64)

    def flips(self, purpose: int) -> np.ndarray:
        """Flags (n,), bool, True for half of the rows."""
        return (self.bits(purpose) >> np.uint64(63)).astype(np.bool_)
