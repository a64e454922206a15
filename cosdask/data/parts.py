"""The files of a data set, such as Hadoop's tools write: one file, a folder of parts, or a glob."""

from __future__ import annotations

from cosdask.errors import DataError
from cosdask.storage import filesystem, missing

_GLOB = "*?["


def part_files(place: str, what: str) -> list[str]:
    """Local paths or URLs of the files at ``place``, in the order of their names.

    Args:
        place: a file, a folder (searched to its bottom), or a glob.
        what: the kind of file, for messages.

    Raises:
        StorageError: nothing there.
        DataError: a folder or a glob without such files.
    """
    fs, path = filesystem(place)
    if any(sign in path for sign in _GLOB) and not fs.exists(path):
        found = [str(name) for name in fs.glob(path) if fs.isfile(name)]
    elif fs.isdir(path):
        found = [str(name) for name in fs.find(path) if not is_hidden(str(name)[len(path) :])]
    elif fs.exists(path):
        found = [path]
    else:
        raise missing(place, f"{what} file or folder")
    if not found:
        raise DataError(f"{place}: no {what} parts there", path=place)
    return [str(fs.unstrip_protocol(name)) for name in sorted(found)]


def is_hidden(path: str) -> bool:
    """Whether a path below a folder is one of the marks, checksums and unfinished parts that lie beside real ones.

    Example:
        >>> is_hidden("/_SUCCESS"), is_hidden("/day=1/.part-00000.crc"), is_hidden("/part-00000")
        (True, True, False)
    """
    return any(part.startswith(("_", ".")) for part in path.split("/") if part)
