"""HDFS through fsspec, in Rust (hdfs-native) instead of Java: its errors as Python's own, in one line.

hdfs-native tells what a NameNode refuses (no permission, a full quota) as a ``RuntimeError`` that quotes Java's stack.
Here those are the ``OSError`` that every reader and writer of files expects.
"""

from __future__ import annotations

import contextlib
import errno
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

from hdfs_native.fsspec import HdfsFileSystem, ViewfsFileSystem

_RPC = re.compile(r'^RPCError\("(?P<kind>[\w.$]+)", "(?P<said>.*)"\)$', re.DOTALL)
#: Java's exceptions, by the end of their names
_KINDS: tuple[tuple[str, Callable[[str], OSError]], ...] = (
    ("AccessControlException", lambda said: PermissionError(errno.EACCES, said)),
    ("QuotaExceededException", lambda said: OSError(errno.EDQUOT, said)),
    ("FileAlreadyExistsException", lambda said: FileExistsError(errno.EEXIST, said)),
    ("FileNotFoundException", lambda said: FileNotFoundError(errno.ENOENT, said)),
    ("ParentNotDirectoryException", lambda said: NotADirectoryError(errno.ENOTDIR, said)),
)
#: refusals of a NameNode that pass: no DataNode to write to, or a NameNode that is starting or handing over
_PASSING = ("could only be written to", "SafeModeException", "StandbyException", "RetriableException")
#: what trying again cannot mend
_LASTING = (errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENOSPC)


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


def plain_error(error: OSError | RuntimeError) -> OSError | RuntimeError:
    r"""The error to raise instead of one of hdfs-native's.

    Example:
        >>> plain_error(RuntimeError('RPCError("org.apache.hadoop.security.AccessControlException", "no\\n\\tat x")'))
        PermissionError(13, 'no')
    """
    text = str(error)
    match = _RPC.match(text)
    if match:
        said = match["said"].split("\\n")[0].replace('\\"', '"')
        for ending, make in _KINDS:
            if match["kind"].endswith(ending):
                return make(said)
        return OSError(f"{match['kind'].rpartition('.')[2]}: {said}")
    first = text.split("\n")[0]
    if "No fs.defaultFS" in first:
        return OSError("it names no NameNode, and HADOOP_CONF_DIR no folder whose core-site.xml does (fs.defaultFS)")
    if isinstance(error, FileNotFoundError) and first.startswith("Path is not a file"):
        return IsADirectoryError(errno.EISDIR, first)
    if not isinstance(error, OSError):
        return OSError(first)
    return type(error)(first) if "\n" in text else error


def passing(error: OSError) -> bool:
    """Whether a failure may pass: a DataNode that died is chosen no more after some seconds.

    Example:
        >>> passing(OSError("Connection refused (os error 111)")), passing(PermissionError(errno.EACCES, "no"))
        (True, False)
    """
    lasting = (PermissionError, FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
    if error.errno in _LASTING or isinstance(error, lasting):
        return False
    text = str(error)
    return not re.match(r"\w+Exception: ", text) or any(sign in text for sign in _PASSING)


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
    """A file that is written, with plain errors."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, buffer: Any) -> int:
        """See ``io.RawIOBase``."""
        with plain_errors():
            return int(self._file.write(buffer))

    def close(self) -> None:
        """Finishes the file; later calls do nothing, also where the first one failed."""
        if not self.closed:
            super().close()
            with plain_errors():
                self._file.close()


class Hdfs(HdfsFileSystem):
    """``hdfs://``; what it renames may take the place of what is there."""

    replaces = True

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        with plain_errors():
            super().__init__(*arguments, **keywords)
        self.client: Any = _Client(self.client)


class Viewfs(ViewfsFileSystem):
    """``viewfs://``; see :class:`Hdfs`."""

    replaces = True

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        with plain_errors():
            super().__init__(*arguments, **keywords)
        self.client: Any = _Client(self.client)
