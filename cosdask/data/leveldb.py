"""LevelDBs of Datum records, read through the optional package ``plyvel``.

LevelDB locks its folder for one process and writes to it even where it only reads. So each process opens a view of its
own: a temporary folder with links to the tables, which never change, and copies of the small files that do. The LevelDB
itself is neither locked nor touched; it must not be written to meanwhile.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from cosdask.data.datums import DatumSource
from cosdask.data.index import Block, Index, kept_index
from cosdask.data.rows import Records
from cosdask.errors import ConfigError, DataError
from cosdask.storage import FileStamp, local_path, missing, stamp

_TABLES = (".ldb", ".sst")
_OTHERS = ("CURRENT", "MANIFEST-*", "*.log")
#: Bytes of values handed on together, about.
_WINDOW = 8 << 20
#: Rows looked at to tell how large rows are, and between two keys noted while counting.
_SAMPLE, _STEP = 16, 64

# All readers of a process share one view; the last one removes it.
_OPEN: dict[str, tuple[Any, tempfile.TemporaryDirectory[str], int]] = {}
_LOCK = threading.Lock()


def _plyvel(path: str) -> ModuleType:
    try:
        import plyvel
    except ImportError as error:
        raise ConfigError(
            f'{path}: reading a LevelDB needs the package plyvel: pip install "cosdask[leveldb]"', path=path
        ) from error
    found: ModuleType = plyvel
    return found


@contextmanager
def open_leveldb(path: Path) -> Iterator[Any]:
    """The LevelDB of a folder, as ``plyvel`` opens it, by a view of this process; shared while the block lasts.

    Raises:
        ConfigError: ``plyvel`` is not installed.
        StorageError: nothing there.
        DataError: not a LevelDB, or damaged.
    """
    plyvel = _plyvel(str(path))
    name = str(path.resolve())
    with _LOCK:
        if name in _OPEN:
            database, folder, readers = _OPEN[name]
        else:
            database, folder, readers = *_opened(path, plyvel), 0
        _OPEN[name] = database, folder, readers + 1
    try:
        yield database
    except (plyvel.Error, OSError) as error:
        raise _damaged(path, error) from error
    finally:
        with _LOCK:
            database, folder, readers = _OPEN[name]
            _OPEN[name] = database, folder, readers - 1
            if readers == 1:
                del _OPEN[name]
                database.close()
                folder.cleanup()


def _opened(path: Path, plyvel: ModuleType) -> tuple[Any, tempfile.TemporaryDirectory[str]]:
    files = leveldb_files(path)
    folder = tempfile.TemporaryDirectory(prefix="cosdask-leveldb-")
    try:
        for file in files:
            beside = Path(folder.name) / file.name
            if file.suffix in _TABLES:
                beside.symlink_to(file.resolve())
            else:
                shutil.copyfile(file, beside)
        return plyvel.DB(folder.name, create_if_missing=False, paranoid_checks=True), folder
    except (plyvel.Error, OSError) as error:
        folder.cleanup()
        raise _damaged(path, error) from error
    except BaseException:
        folder.cleanup()
        raise


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: damaged LevelDB: {error}", path=str(path))


def leveldb_files(path: Path) -> list[Path]:
    """The files that hold a LevelDB's rows, by name.

    Raises:
        StorageError: nothing there.
        DataError: not a LevelDB.
    """
    if not path.exists():
        raise missing(path, "LevelDB")
    if not (path / "CURRENT").is_file():
        lmdb = (path / "data.mdb").exists()
        remedy = "it is an LMDB: state backend: LMDB" if lmdb else "it is no folder with the file CURRENT"
        raise DataError(f"{path}: not a LevelDB, {remedy}", path=str(path))
    found = [file for pattern in (*(f"*{ending}" for ending in _TABLES), *_OTHERS) for file in path.glob(pattern)]
    return sorted(found)


class LevelDbSource(DatumSource):
    """A LevelDB of Datums: ``Data`` layers with ``backend: LEVELDB``, which is Caffe's default."""

    kind: ClassVar[str] = "LevelDB"

    @cached_property
    def path(self) -> Path:
        """The folder.

        Raises:
            ConfigError: it is not on a local disk.
        """
        found = local_path(self.location)
        if found is None:
            raise ConfigError(
                f"{self.where}: {self.location}: a LevelDB is read from local disks only; convert it to an LMDB, which "
                "is read in place on any filesystem, or copy it to a disk that all workers see",
                layer=self.layer.name,
            )
        return found

    def hold(self) -> AbstractContextManager[Any]:
        """See :meth:`Source.hold`: the open LevelDB."""
        return open_leveldb(self.path)

    @cached_property
    def row_bytes(self) -> int:
        """About how many bytes a row takes, at least 1; judged by the first rows."""
        with open_leveldb(self.path) as database, database.iterator(verify_checksums=True) as rows:
            sizes = [len(value) for _, (_, value) in zip(range(_SAMPLE), rows, strict=False)]
        return max(1, sum(sizes) // max(1, len(sizes)))

    @property
    def stamps(self) -> list[tuple[str, FileStamp]]:
        """See :meth:`Source.stamps`."""
        return [(str(file), stamp(file)) for file in leveldb_files(self.path.resolve())]

    def _count(self) -> Index:
        return kept_index(self.kind, self.stamps, self._walk)

    def _walk(self) -> Index:
        """One walk over the keys; LevelDB's tables hold no counts."""
        fine = min(_STEP, self._block_rows(0))
        keys: list[bytes] = []
        rows = 0
        with open_leveldb(self.path) as database:
            options = {"include_value": False, "verify_checksums": True, "fill_cache": False}
            with database.iterator(**options) as found:
                for key in found:
                    if rows % fine == 0:
                        keys.append(key)
                    rows += 1
        if not rows:
            raise self._no_rows()
        each = max(1, self._block_rows(rows) // fine)
        step = each * fine
        starts = enumerate(keys[::each])
        return Index(tuple(Block(min(step, rows - number * step), {"key": key.hex()}) for number, key in starts))

    def _records(self, start: int, stop: int) -> Iterator[Records]:
        number, skip = self.index().locate(start)
        first = bytes.fromhex(self.index().blocks[number].place["key"])
        keys: list[bytes] = []
        values: list[bytes | memoryview] = []
        size, left = 0, stop - start
        with (
            open_leveldb(self.path) as database,
            database.iterator(start=first, verify_checksums=True, fill_cache=False) as rows,
        ):
            for place, (key, value) in enumerate(rows):
                if place == 0 and key != first:
                    raise self.changed(self.rows, start)
                if place < skip:
                    continue
                keys.append(key)
                values.append(value)
                size, left = size + len(value), left - 1
                if size >= _WINDOW or not left:
                    yield Records(keys, values)
                    keys, values, size = [], [], 0
                if not left:
                    return
        raise self.changed(stop - start, stop - start - left)
