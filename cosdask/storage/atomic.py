"""Files that are whole or absent: written beside, synced, renamed, on every filesystem."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from cosdask.errors import StorageError
from cosdask.storage.hdfs_errors import passing
from cosdask.storage.paths import PathLike, exists, filesystem, local_path, parent

_SUFFIX = ".part"
#: seconds to go on trying to write to HDFS where a DataNode died, and between two tries
_RETRY, _PAUSE = 60.0, 1.0
_HDFS = ("hdfs://", "viewfs://", "webhdfs://", "swebhdfs://")


def refuse_overwrite(url: PathLike, overwrite: bool) -> None:
    """Stop before work begins when an output is already there and may not be replaced.

    Raises:
        StorageError: ``url`` exists and ``overwrite`` is false.
    """
    if not overwrite and exists(url):
        name = os.fspath(url)
        raise StorageError(f"{name}: already there; name another output, or allow it with --overwrite", path=name)


def atomic_write(url: PathLike, data: bytes | str | Callable[[IO[bytes]], Any], replace: bool = True) -> None:
    """Write a file so that its name shows the old content or the whole new one, never a part.

    Args:
        url: local path or URL; folders on the way are made.
        data: the content, or a function that writes it to a binary file (seekable and readable too).
        replace: whether a file of this name may be replaced; without, one that is there is an error.

    Raises:
        StorageError: cannot be written; what was there before is untouched.
    """
    with atomic_output(url, replace) as file:
        if callable(data):
            data(file)
        else:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextlib.contextmanager
def atomic_output(url: PathLike, replace: bool = True) -> Iterator[IO[bytes]]:
    """A temporary binary file that takes the name ``url`` when the block ends well, and vanishes when it does not.

    Example:
        >>> import tempfile
        >>> name = tempfile.mkdtemp() + "/model"
        >>> with atomic_output(name) as file:
        ...     _ = file.write(b"weights")
        >>> Path(name).read_bytes()
        b'weights'
    """
    here = local_path(url)
    name = os.fspath(url)
    try:
        with _local_output(here, replace) if here is not None else _remote_output(url, replace) as file:
            yield file
    except StorageError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"{name}: cannot be written ({reason}); nothing was changed there", path=name) from error


@contextlib.contextmanager
def _local_output(target: Path, replace: bool) -> Iterator[IO[bytes]]:
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder")
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}{_SUFFIX}")
    try:
        with beside.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(beside, target)
        else:
            os.link(beside, target)
        _sync_folder(target.parent)
    finally:
        beside.unlink(missing_ok=True)


def remove_parts(folder: PathLike, names: str) -> None:
    """Remove what writers that were killed have left in a folder; nobody may be writing those files now.

    Args:
        folder: local path or URL; one that is not there holds nothing.
        names: regular expression for the names of the files that were to be written.
    """
    fs, path = filesystem(folder)
    fs.invalidate_cache(path)
    if not exists(folder):
        return
    pattern = re.compile(rf"\.({names})\.[0-9a-f]{{8}}{re.escape(_SUFFIX)}")
    for entry in fs.ls(path, detail=False):
        if pattern.fullmatch(os.path.basename(entry.rstrip("/"))):
            fs.rm_file(entry)


def _sync_folder(folder: Path) -> None:
    """Make the rename last: a new name is only on disk once its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _remote_output(url: PathLike, replace: bool) -> Iterator[IO[bytes]]:
    """Collect locally (writers may seek, which remote files cannot), send beside the target, rename."""
    with tempfile.TemporaryFile() as file:
        yield file
        until = time.monotonic() + _RETRY
        for tries in itertools.count(1):
            try:
                file.seek(0)
                _send(url, file, replace, alone=tries > 1)
                return
            except OSError as error:
                if not _may_pass(url, error) or time.monotonic() > until:
                    raise
                time.sleep(_PAUSE)


def _may_pass(url: PathLike, error: OSError) -> bool:
    """Whether it helps to send again: in HDFS, where a DataNode that died is used no more a few seconds later."""
    if isinstance(error, StorageError) or not os.fspath(url).startswith(_HDFS):
        return False
    return passing(error)


def _send(url: PathLike, file: IO[bytes], replace: bool, alone: bool) -> None:
    """Write beside and rename; ``alone``: HDFS gets one copy and makes the others itself.

    Until a NameNode counts a DataNode that died as dead, which takes minutes, it sends writers to it; a single copy
    need not meet it.
    """
    fs, target = filesystem(url)
    folder, _, last = target.rpartition("/")
    beside = f"{folder}/.{last}.{uuid.uuid4().hex[:8]}{_SUFFIX}"
    fs.makedirs(filesystem(parent(url))[1], exist_ok=True)
    alone = alone and hasattr(fs, "copy_as_usual")
    try:
        with fs.open(beside, "wb", **({"replication": 1} if alone else {})) as sent:
            shutil.copyfileobj(file, sent, 1 << 20)
        if alone:
            fs.copy_as_usual(beside)
        _rename(fs, beside, target, replace)
    finally:
        if fs.exists(beside):
            fs.rm(beside)


def _rename(fs: Any, source: str, target: str, replace: bool) -> None:
    """Rename, over what is there where that may go; where the filesystem refuses, put the old file aside first."""
    if getattr(fs, "replaces", False):
        fs.mv(source, target, overwrite=replace)
        return
    if not replace and fs.exists(target):
        raise FileExistsError(f"{target} is already there")
    try:
        fs.mv(source, target)
    except FileExistsError:
        if not replace:
            raise
        aside = f"{source}.old"
        fs.mv(target, aside)
        fs.mv(source, target)
        fs.rm(aside)


def make_folder(url: PathLike) -> None:
    """A folder of this name, if none is there.

    Raises:
        StorageError: it cannot be made.
    """
    fs, path = filesystem(url)
    try:
        fs.makedirs(path, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{url}: the folder cannot be made: {error}", path=os.fspath(url)) from error


def take_name(finished: PathLike, output: PathLike) -> None:
    """Give a finished file or folder its name; what had the name before goes when the new one is there.

    Raises:
        StorageError: the filesystem refuses.
    """
    fs, source = filesystem(finished)
    target = filesystem(output)[1]
    old = f"{target}.old"
    try:
        fs.makedirs(target.rpartition("/")[0] or "/", exist_ok=True)
        if fs.exists(target):
            # an older one that somebody was killed over
            _remove_at(fs, old)
            fs.mv(target, old, recursive=True)
        fs.mv(source, target, recursive=True)
        _remove_at(fs, old)
    except OSError as error:
        name = os.fspath(output)
        raise StorageError(f"{name}: cannot be written: {error}; the rows are in {finished}", path=name) from error


def remove_all(url: PathLike) -> None:
    """Remove a file or a folder with what is in it, if it is there."""
    _remove_at(*filesystem(url))


def _remove_at(fs: Any, path: str) -> None:
    if fs.exists(path):
        fs.rm(path, recursive=True)
