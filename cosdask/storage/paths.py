"""Paths and URLs: where a name leads, and reading what lies there.

A name without a scheme, or with ``file:`` in any of its spellings (``file:a``, ``file:/a``, ``file:///a``), is a local
path. Every other ``scheme://`` name goes through fsspec.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from cosdask.errors import StorageError, did_you_mean
from cosdask.storage.hadoop import default_filesystem, real_url, split_url, way_to

# they are loaded when a URL asks for them
for _protocol, _class in (
    ("hdfs", "hdfs.Hdfs"),
    ("viewfs", "hdfs.Viewfs"),
    ("webhdfs", "webhdfs.WebHdfs"),
    ("swebhdfs", "webhdfs.WebHdfs"),
):
    fsspec.register_implementation(
        _protocol,
        f"cosdask.storage.{_class}",
        clobber=True,
        errtxt="hdfs-native is not installed: pip install 'cosdask[yarn]'",
    )

PathLike = str | os.PathLike[str]

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)(?:://|::)")
_FILE_HOSTS = ("", "localhost")
#: What filesystems call the time of the last change: local, HDFS, WebHDFS, S3, Google's and Azure's, HTTP, memory.
_CHANGED = (
    "mtime",
    "modification_time",
    "modificationTime",
    "LastModified",
    "last_modified",
    "updated",
    "ETag",
    "etag",
    "created",
)


@dataclass(frozen=True)
class FileStamp:
    """Size in bytes and modification time of a file: enough to notice that it changed.

    ``changed`` is a text because filesystems give times in different types; it is compared, never computed with.
    """

    size: int
    changed: str


def local_path(url: PathLike) -> Path | None:
    """The local path that a name means, or None when it lies on another filesystem.

    Example:
        >>> local_path("file:/data/train").as_posix(), local_path("hdfs://nn/data")
        ('/data/train', None)
    """
    name = os.fspath(url)
    if name.startswith("file:"):
        rest = name[len("file:") :]
        if rest.startswith("//"):
            host, slash, path = rest[2:].partition("/")
            if host not in _FILE_HOSTS:
                raise StorageError(
                    f"{name}: a file URL names the host {host!r}; local files are written file:///folder/name",
                    path=name,
                )
            rest = slash + path
        return Path(rest)
    return None if _SCHEME.match(name) else Path(name)


def absolute(url: PathLike) -> str:
    """A local path made absolute, so that it means the same in any working directory; URLs stay.

    Example:
        >>> absolute("/data/../train"), absolute("hdfs://nn/train")
        ('/train', 'hdfs://nn/train')
    """
    here, name = local_path(url), os.fspath(url)
    return name if here is None or not name else os.path.abspath(here)


def filesystem(url: PathLike) -> tuple[Any, str]:
    """The fsspec filesystem of a name, and its path there.

    ``viewfs://`` names lead where the site files mount them; ``hdfs://`` goes over HTTP where the RPC port is closed.

    Raises:
        StorageError: unknown scheme, or a scheme whose package is not installed.
    """
    here = local_path(url)
    name = os.fspath(url) if here is None else str(here.absolute())
    if name.startswith(("hdfs://", "viewfs://")):
        name = real_url(name)
        kind, authority, place = split_url(name)
        authority = authority or split_url(default_filesystem())[1]
        if kind == "hdfs" and authority and way_to(authority) == "http":
            return fsspec.filesystem("webhdfs", scheme="hdfs", authority=authority), place or "/"
    try:
        fs, path = fsspec.core.url_to_fs(name)
    except ValueError as error:
        scheme = _SCHEME.match(name)
        known = did_you_mean(scheme.group(1), fsspec.available_protocols()) if scheme else ""
        raise StorageError(f"{name}: {error}.{known}", path=name) from error
    except ImportError as error:
        raise StorageError(f"{name}: this kind of URL needs a package that is missing: {error}", path=name) from error
    except OSError as error:
        raise StorageError(f"{name}: cannot be reached: {error}", path=name) from error
    return fs, str(path)


def join(folder: PathLike, name: str) -> str:
    """``name`` inside ``folder``, for local folders and URLs alike.

    Example:
        >>> join("hdfs://nn/a", "b"), join("a/", "b")
        ('hdfs://nn/a/b', 'a/b')
    """
    return posixpath.join(os.fspath(folder), name)


def parent(url: PathLike) -> str:
    """The folder that a name lies in (``"."`` for a bare local name)."""
    here = local_path(url)
    return posixpath.dirname(os.fspath(url)) if here is None else str(here.parent)


def exists(url: PathLike) -> bool:
    """Whether a file or folder of this name is there.

    Raises:
        StorageError: the filesystem cannot be asked.
    """
    here = local_path(url)
    return here.exists() if here is not None else _asked(url, "exists")


def is_folder(url: PathLike) -> bool:
    """Whether a folder of this name is there.

    Raises:
        StorageError: the filesystem cannot be asked.
    """
    here = local_path(url)
    return here.is_dir() if here is not None else _asked(url, "isdir")


def names_in(url: PathLike) -> set[str]:
    """The names of what lies in a folder now, whatever was known of it before.

    Raises:
        StorageError: the folder is not there, or the filesystem cannot be asked.
    """
    fs, path = filesystem(url)
    try:
        return {posixpath.basename(str(entry).rstrip("/")) for entry in fs.ls(path, detail=False, refresh=True)}
    except FileNotFoundError as error:
        raise missing(url, "folder") from error
    except OSError as error:
        raise StorageError(f"{url}: cannot be listed: {error}", path=os.fspath(url)) from error


def _asked(url: PathLike, question: str) -> bool:
    """What a remote filesystem's method of this name says of a path."""
    fs, path = filesystem(url)
    try:
        return bool(getattr(fs, question)(path))
    except OSError as error:
        raise StorageError(f"{url}: cannot ask the filesystem: {error}", path=os.fspath(url)) from error


def resolve(path: PathLike, base: PathLike | None = None) -> str:
    """Where a name written inside a file leads.

    A relative local name counts from the working directory, as in Caffe; if nothing is there, from ``base``, the
    folder of the file that says it. URLs and absolute paths stay. A name found in neither place is given back as it
    counts from the working directory, so that the reader's error shows it.
    """
    here = local_path(path)
    if here is None:
        return os.fspath(path)
    if here.is_absolute() or here.exists() or base is None:
        return str(here)
    beside = join(base, here.as_posix())
    return beside if exists(beside) else str(here)


def nearest_names(url: PathLike) -> str:
    """A sentence for error messages: what is near a missing name in its folder, or which folder is missing."""
    fs, path = filesystem(url)
    folder, name = posixpath.split(path)
    try:
        names = [posixpath.basename(entry.rstrip("/")) for entry in fs.ls(folder, detail=False)]
    except (OSError, NotImplementedError):
        return f" The folder {folder} is not there either." if folder else ""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f" In {folder} there is " + ", ".join(near) + "."
    return f" The folder {folder} is there, without any like name."


def missing(url: PathLike, what: str = "file") -> StorageError:
    """The error for something that is not there, with the nearest names in its folder."""
    name = os.fspath(url)
    where = "" if os.path.isabs(name) or local_path(url) is None else f" (from {Path.cwd()})"
    return StorageError(f"{name}{where}: no such {what}.{nearest_names(url)}", path=name)


def stamp(url: PathLike) -> FileStamp:
    """Size and modification time.

    Raises:
        StorageError: nothing of this name is there.
    """
    here = local_path(url)
    try:
        if here is not None:
            found = here.stat()
            return FileStamp(found.st_size, str(found.st_mtime_ns))
        fs, path = filesystem(url)
        info = fs.info(path)
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise missing(url) from error
    except OSError as error:
        raise StorageError(f"{url}: cannot be looked at: {error}", path=os.fspath(url)) from error
    changed = next((info[key] for key in _CHANGED if info.get(key)), "")
    return FileStamp(int(info.get("size") or 0), str(changed))


def read_bytes(url: PathLike, limit: int | None = None) -> bytes:
    """A whole file.

    Args:
        url: local path or URL.
        limit: most bytes accepted; None for any size.

    Raises:
        StorageError: missing, a folder, unreadable, or larger than ``limit``.
    """
    name = os.fspath(url)
    fs, path = filesystem(url)
    try:
        with fs.open(path, "rb") as file:
            data = bytes(file.read() if limit is None else file.read(limit + 1))
    except FileNotFoundError as error:
        raise missing(url) from error
    except IsADirectoryError as error:
        raise StorageError(f"{name}: is a folder, a file is needed", path=name) from error
    except OSError as error:
        raise StorageError(f"{name}: cannot be read: {error}", path=name) from error
    if limit is not None and len(data) > limit:
        raise StorageError(f"{name}: larger than the {limit:,} bytes accepted for this kind of file", path=name)
    return data


def describe_file(url: PathLike) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file.

    Raises:
        StorageError: missing, a folder, or unreadable.
    """
    data = read_bytes(url)
    return len(data), hashlib.sha256(data).hexdigest()


def read_text(url: PathLike, limit: int | None = None) -> str:
    """A whole UTF-8 text file; see :func:`read_bytes`.

    Raises:
        StorageError: also when the bytes are not UTF-8 text.
    """
    name = os.fspath(url)
    try:
        return read_bytes(url, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(
            f"{name}: not UTF-8 text (byte {error.start}); is it a binary file given where a text is needed?",
            path=name,
            offset=error.start,
        ) from error


def remove(url: PathLike) -> None:
    """Delete a file; one that is not there is no error.

    Raises:
        StorageError: it cannot be deleted.
    """
    fs, path = filesystem(url)
    try:
        fs.rm_file(path)
    except FileNotFoundError:
        return
    except OSError as error:
        name = os.fspath(url)
        raise StorageError(f"{name}: cannot be deleted: {error}", path=name) from error
