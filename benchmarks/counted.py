"""Filesystems that count the bytes they give: local files as ``counted:///folder/file``, and HDFS itself."""

from __future__ import annotations

import threading
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

_LOCK = threading.Lock()


class CountedFile:
    """A file that reports what is read of it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """As a file's; a request is counted with its bytes."""
        data: bytes = self._file.read(size)
        with _LOCK:
            CountedFileSystem.bytes_read += len(data)
            CountedFileSystem.requests += 1
        return data

    def __enter__(self) -> CountedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class CountedFileSystem(LocalFileSystem):
    """Local files under another scheme, so that cosdask takes them for remote; sums are over this process.

    Example:
        >>> import os, tempfile
        >>> name = os.path.join(tempfile.mkdtemp(), "rows")
        >>> with open(name, "wb") as file:
        ...     _ = file.write(b"0123456789")
        >>> register()
        >>> CountedFileSystem.reset()
        >>> with fsspec.open("counted://" + name) as file:
        ...     _ = file.read(4)
        >>> CountedFileSystem.bytes_read, CountedFileSystem.requests
        (4, 1)
    """

    protocol = "counted"
    bytes_read = 0
    requests = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("counted://")))

    @classmethod
    def reset(cls) -> None:
        """Begin at zero again."""
        cls.bytes_read = cls.requests = 0

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **keywords: Any) -> Any:
        file = super()._open(path, mode, block_size, **keywords)
        return CountedFile(file) if mode == "rb" else file


def register() -> None:
    """Make the scheme ``counted`` known to this process."""
    fsspec.register_implementation("counted", CountedFileSystem, clobber=True)


def register_hdfs() -> None:
    """Let what this process reads from HDFS be counted, too."""
    from cosdask.storage.hdfs import Hdfs

    class CountedHdfs(Hdfs):
        """HDFS as cosdask reads it; the sums are those of :class:`CountedFileSystem`."""

        def _open(self, path: str, mode: str = "rb", *arguments: Any, **keywords: Any) -> Any:
            file = super()._open(path, mode, *arguments, **keywords)
            return CountedFile(file) if mode == "rb" else file

    fsspec.register_implementation("hdfs", CountedHdfs, clobber=True)
