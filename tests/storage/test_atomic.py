"""Invariant 7: a file is whole or absent, on every filesystem."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import IO

import fsspec
import pytest

from cosdask.errors import StorageError
from cosdask.storage import atomic_output, atomic_write, exists, read_bytes, refuse_overwrite


def places(tmp_path: Path) -> list[str]:
    """One name on the local disk, one behind fsspec; both in folders that are not there yet."""
    return [str(tmp_path / "deep" / "model"), f"memory://{tmp_path.name}/deep/model"]


def test_writes_bytes_text_and_functions(tmp_path: Path) -> None:
    """All three ways of giving the content put it there; a later write replaces it."""
    for name in places(tmp_path):
        atomic_write(name, b"one")
        assert read_bytes(name) == b"one"
        atomic_write(name, "zwei \u00fc")
        assert read_bytes(name).decode() == "zwei \u00fc"
        atomic_write(name, lambda file: file.write(b"three"))
        assert read_bytes(name) == b"three"


def test_a_failure_keeps_the_old_file_and_leaves_nothing_beside(tmp_path: Path) -> None:
    """An error in the middle of writing leaves the last good file and no temporary one."""
    for name in places(tmp_path):
        atomic_write(name, b"good")
        with pytest.raises(RuntimeError, match="stop"), atomic_output(name) as file:
            file.write(b"half")
            raise RuntimeError("stop")
        assert read_bytes(name) == b"good"
        fs, path = fsspec.core.url_to_fs(name)
        assert [Path(entry).name for entry in fs.ls(fs._parent(path), detail=False)] == ["model"]


def test_a_full_disk_is_a_storage_error_that_changes_nothing(tmp_path: Path) -> None:
    """ENOSPC while writing names the target and leaves the last good file."""

    def full(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in places(tmp_path):
        atomic_write(name, b"good")
        with pytest.raises(StorageError, match="No space left") as caught:
            atomic_write(name, full)
        assert caught.value.where["path"] == name
        assert read_bytes(name) == b"good"


def test_the_new_content_is_not_seen_before_the_end(tmp_path: Path) -> None:
    """Readers see the old content until the rename."""
    for name in places(tmp_path):
        atomic_write(name, b"old")
        with atomic_output(name) as file:
            file.write(b"new")
            file.flush()
            assert read_bytes(name) == b"old"
        assert read_bytes(name) == b"new"


def test_writers_may_seek(tmp_path: Path) -> None:
    """HDF5 writers go back in the file; this works for URLs too."""
    for name in places(tmp_path):
        with atomic_output(name) as file:
            file.write(b"xbc")
            file.seek(0)
            file.write(b"a")
        assert read_bytes(name) == b"abc"


def test_refuse_overwrite(tmp_path: Path) -> None:
    """An output that is there is refused with the remedy, unless replacing is allowed."""
    for name in places(tmp_path):
        refuse_overwrite(name, overwrite=False)
        atomic_write(name, b"x")
        with pytest.raises(StorageError, match="--overwrite"):
            refuse_overwrite(name, overwrite=False)
        refuse_overwrite(name, overwrite=True)
        assert exists(name)


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    """A target that is a folder is an error, and the folder stays."""
    with pytest.raises(StorageError, match="folder"):
        atomic_write(tmp_path, b"x")
    assert tmp_path.is_dir()
