"""HDFS through fsspec, in Rust (hdfs-native) instead of Java: its errors as Python's own, in one line.

hdfs-native tells what a NameNode refuses (no permission, a full quota) as a ``RuntimeError`` that quotes Java's stack.
Here those are the ``OSError`` of :mod:`cosdask.storage.hdfs_errors`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from hdfs_native.fsspec import HdfsFileSystem, ViewfsFileSystem

from cosdask.storage.hadoop import settings, split_url
from cosdask.storage.hdfs_errors import plain_error


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turns hdfs-native's errors into OSErrors with the first line of what they say."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        plain = plain_error(error)
        if plain is error:
            raise
        raise plain from None


class _Client:
    """hdfs-native's client with plain errors."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            with plain_errors():
                return method(*arguments, **keywords)

        return call

    def list_status(self, path: str, recursive: bool = False) -> list[Any]:
        """All entries; the client's own list asks while it is read."""
        with plain_errors():
            return list(self._client.list_status(path, recursive))

    def create(self, *arguments: Any, **keywords: Any) -> Any:
        """A file to write."""
        with plain_errors():
            return _Writer(self._client.create(*arguments, **keywords))

    def append(self, path: str) -> Any:
        """A file to write more to."""
        with plain_errors():
            return _Writer(self._client.append(path))


class _Writer(io.RawIOBase):
    """A file that is written, with plain errors.

    One whose write failed is let go, not finished: that would fail too, after a quarter of a minute, and hide why.
    """

    def __init__(self, file: Any) -> None:
        self._file = file

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, buffer: Any) -> int:
        """See ``io.RawIOBase``."""
        try:
            with plain_errors():
                return int(self._file.write(buffer))
        except OSError:
            self._file = None
            raise

    def close(self) -> None:
        """Finishes the file; later calls do nothing, also where the first one failed."""
        if not self.closed:
            super().close()
            if self._file is not None:
                with plain_errors():
                    self._file.close()


class _Shared:
    """What both kinds of names share; what they rename may take the place of what is there."""

    replaces = True
    client: Any

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        # hdfs-native's would end at a question mark or a hash
        return split_url(path)[2] or "/"

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        # hdfs-native's would write a nameservice in small letters
        host, _, port = split_url(path)[1].partition(":")
        return {"host": host or None, "port": int(port) if port else None}

    def copy_as_usual(self, path: str) -> None:
        """Asks HDFS for the usual number of copies of a file that was written with one."""
        self.client.set_replication(path, int(settings("hdfs-site.xml").get("dfs.replication", 3)))


class Hdfs(_Shared, HdfsFileSystem):
    """``hdfs://``."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        with plain_errors():
            super().__init__(*arguments, **keywords)
        self.client = _Client(self.client)


class Viewfs(_Shared, ViewfsFileSystem):
    """``viewfs://``."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        with plain_errors():
            super().__init__(*arguments, **keywords)
        self.client = _Client(self.client)
