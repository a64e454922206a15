"""Files read by ranges of bytes: what was asked for is fetched, nothing else and nothing ahead."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import IO, Any

import numpy as np

from cosdask.errors import StorageError
from cosdask.storage.paths import FileStamp, PathLike, filesystem, local_path, missing, stamp

#: Most bytes of one request; larger ranges are asked for in pieces.
_REQUEST = 64 << 20
#: Requests of one reader that run side by side: far files answer after milliseconds.
_REQUESTS = 8
#: Bytes that are fetched along rather than asking once more, and their most part of what is wanted.
_GAP = 64 << 10
_WASTE = 0.04

# Files that are mapped and looked at: mapping one again would fetch all its pages' addresses anew.
_MAPPED: weakref.WeakValueDictionary[tuple[str, FileStamp], np.ndarray] = weakref.WeakValueDictionary()
_LOCK = threading.Lock()


class RangeFile:
    """A file, local or remote, open for reading by ranges.

    Nothing is read before it is asked for and nothing is cached, so that what crosses the network is what the caller
    wanted. Many ranges at once are asked for side by side. One thread at a time.

    Args:
        url: local path or URL.

    Raises:
        StorageError: missing, or not readable.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> name = tempfile.mkdtemp() + "/rows"
        >>> _ = Path(name).write_bytes(b"0123456789")
        >>> with RangeFile(name) as file:
        ...     file.size, file.read(2, 5), bytes(file.gather([(0, 2), (8, 12)]))
        (10, b'234', b'0189')
    """

    def __init__(self, url: PathLike) -> None:
        self.url = os.fspath(url)
        self.stamp = stamp(url)
        self.size = self.stamp.size
        self._local = local_path(url)
        self._file = self._opened()
        #: Further handles of a remote file that no request uses now.
        self._idle: list[Any] = []
        self._pool: ThreadPoolExecutor | None = None

    def _opened(self) -> IO[bytes] | Any:
        try:
            if self._local is not None:
                return self._local.open("rb", buffering=0)
            fs, path = filesystem(self.url)
            return fs.open(path, "rb", cache_type="none")
        except FileNotFoundError as error:
            raise missing(self.url) from error
        except OSError as error:
            raise StorageError(f"{self.url}: cannot be opened: {error}", path=self.url) from error

    @property
    def is_local(self) -> bool:
        """Whether this is a file of this machine."""
        return self._local is not None

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` (excluded); fewer where the file ends before.

        Raises:
            StorageError: the filesystem failed.
        """
        return self._read(self._file, start, stop)

    def _read(self, file: Any, start: int, stop: int) -> bytes:
        parts = []
        stop = min(stop, self.size)
        while start < stop:
            part = self._once(file, start, min(stop, start + _REQUEST))
            if not part:
                break
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _once(self, file: Any, start: int, stop: int) -> bytes:
        """One request; the filesystem may give less than was asked for."""
        try:
            if self._local is not None:
                return os.pread(file.fileno(), stop - start, start)
            file.seek(start)
            return bytes(file.read(stop - start))
        except (OSError, ValueError) as error:
            where = f"bytes {start} to {stop}"
            raise StorageError(f"{self.url}: {where} cannot be read: {error}", path=self.url, offset=start) from error

    def mapped(self) -> np.ndarray | None:
        """A local file's bytes, uint8, of which each is read when it is looked at; None for other files.

        Views of it outlive :meth:`close`; readers of one file share them. A file that becomes shorter while it is
        mapped ends the process.
        """
        if self._local is None or not self.size:
            return None
        key = self.url, self.stamp
        with _LOCK:
            found = _MAPPED.get(key)
            if found is None:
                found = _MAPPED[key] = self._map()
        return found

    def _map(self) -> np.ndarray:
        try:
            return np.frombuffer(mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_READ), np.uint8)
        except (OSError, ValueError) as error:
            raise StorageError(f"{self.url}: cannot be mapped: {error}", path=self.url) from error

    def gather(self, ranges: Sequence[tuple[int, int]]) -> np.ndarray:
        """The bytes of several ranges behind each other, uint8; a request a range."""
        if self.is_local or len(ranges) < 2:
            parts = [self.read(start, stop) for start, stop in ranges]
        else:
            self._pool = self._pool or ThreadPoolExecutor(_REQUESTS, "cosdask-ranges")
            parts = list(self._pool.map(lambda span: self._beside(*span), ranges))
        return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)

    def _beside(self, start: int, stop: int) -> bytes:
        """A request with a handle of its own, so that others may run meanwhile."""
        try:
            file = self._idle.pop()
        except IndexError:
            file = self._opened()
        try:
            return self._read(file, start, stop)
        finally:
            self._idle.append(file)

    def close(self) -> None:
        """Close the file; may be called again."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        while self._idle:
            self._idle.pop().close()
        self._file.close()

    def __enter__(self) -> RangeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def merged_ranges(start: np.ndarray, stop: np.ndarray) -> list[tuple[int, int]]:
    """Few ranges of bytes that hold all those given, in their order in the file.

    Ranges that touch become one; so do those with small gaps between them, smallest first, while what is fetched in
    vain stays a few hundredths of what is wanted.

    Args:
        start: int64, where each begins.
        stop: int64, where each ends.

    Example:
        >>> merged_ranges(np.array([0, 100, 300]), np.array([100, 200, 310]))
        [(0, 200), (300, 310)]
    """
    order = np.argsort(start, kind="stable")
    start, stop = start[order], np.maximum.accumulate(stop[order])
    gaps = np.maximum(start[1:] - stop[:-1], 0)
    smallest = np.argsort(gaps, kind="stable")
    wanted = (stop - np.maximum(start, np.concatenate([start[:1], stop[:-1]]))).sum()
    cheap = (np.cumsum(gaps[smallest]) <= _WASTE * wanted) & (gaps[smallest] <= _GAP)
    joined = np.zeros(len(gaps), np.bool_)
    joined[smallest[cheap]] = True
    cuts = np.flatnonzero(~joined) + 1
    firsts, lasts = np.r_[0, cuts], np.r_[cuts, len(start)] - 1
    return list(zip(start[firsts].tolist(), stop[lasts].tolist(), strict=True))
