"""What HDFS refuses, as the ``OSError`` that every reader and writer of files expects, in one line."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable

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


def java_error(kind: str, said: str) -> OSError:
    """The error for an exception of Java's.

    Args:
        kind: its class.
        said: its message, of which the first line is kept.

    Example:
        >>> java_error("org.apache.hadoop.security.AccessControlException", "no")
        PermissionError(13, 'no')
    """
    said = said.split("\n")[0]
    for ending, make in _KINDS:
        if kind.endswith(ending):
            return make(said)
    return OSError(f"{kind.rpartition('.')[2]}: {said}")


def plain_error(error: OSError | RuntimeError) -> OSError | RuntimeError:
    r"""The error to raise instead of one of hdfs-native's.

    Example:
        >>> plain_error(RuntimeError('RPCError("org.apache.hadoop.security.AccessControlException", "no\\n\\tat x")'))
        PermissionError(13, 'no')
    """
    text = str(error)
    match = _RPC.match(text)
    if match:
        return java_error(match["kind"], match["said"].split("\\n")[0].replace('\\"', '"'))
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
