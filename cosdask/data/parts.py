"""The files of a data set, such as Hadoop's tools write: one file, a folder of parts, or a glob."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cosdask.errors import DataError, StorageError
from cosdask.storage import filesystem, missing

_GLOB = "*?["


def part_files(place: str, what: str) -> list[str]:
    """Local paths or URLs of the files at ``place``, in the order of their names.

    Args:
        place: a file, a folder (searched to its bottom), or a glob.
        what: the kind of file, for messages.

    Raises:
        StorageError: nothing there, or a folder that cannot be listed.
        DataError: a folder or a glob without such files.
    """
    fs, path = filesystem(place)
    if any(sign in path for sign in _GLOB) and not fs.exists(path):
        # names that begin so are no data, unless the user asks for them
        shown = not is_hidden(path[path.rfind("/") :])
        found = _below(fs, fs.glob(path, detail=True).values(), shown)
    elif fs.isdir(path):
        found = _below(fs, _listed(fs, path), True)
    elif fs.exists(path):
        found = [path]
    else:
        raise missing(place, f"{what} file or folder")
    if not found:
        raise DataError(f"{place}: no {what} parts there", path=place)
    return [str(fs.unstrip_protocol(name)) for name in sorted(found)]


def _listed(fs: Any, folder: str) -> list[dict[str, Any]]:
    """What is in a folder. fsspec's own walk leaves out what it cannot list, and rows would be missing."""
    try:
        found = fs.ls(folder, detail=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be listed: {error}", path=folder) from error
    # some object stores keep a mark of the folder's own name
    return [entry for entry in found if str(entry["name"]).rstrip("/") != folder.rstrip("/")]


def _below(fs: Any, entries: Iterable[dict[str, Any]], shown: bool) -> list[str]:
    """The files among some entries, and those below the folders among them."""
    found: list[str] = []
    for entry in entries:
        name = str(entry["name"])
        if shown and is_hidden(name.rstrip("/").rsplit("/", 1)[-1]):
            continue
        if entry["type"] == "directory":
            found += _below(fs, _listed(fs, name), True)
        else:
            found.append(name)
    return found


def is_hidden(path: str) -> bool:
    """Whether a path below a folder is one of the marks, checksums and unfinished parts that lie beside real ones.

    Example:
        >>> is_hidden("/_SUCCESS"), is_hidden("/day=1/.part-00000.crc"), is_hidden("/part-00000")
        (True, True, False)
    """
    return any(part.startswith(("_", ".")) for part in path.split("/") if part)
