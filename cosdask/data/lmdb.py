"""Local LMDBs of Datum records, read in place.

Keys give the order and the SampleID. An LMDB holds no row numbers: the index remembers the key of every so many rows,
and reading starts from the nearest one.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import lmdb
import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError

from cosdask.data.base import CHUNK, CHUNK_BYTES
from cosdask.data.datum import DatumReader, DatumView
from cosdask.data.image_rows import ImageRows
from cosdask.data.images import ImageSource, image_schema
from cosdask.data.index import Block, Index, kept_index
from cosdask.errors import ConfigError, DataError
from cosdask.proto import caffe_pb2
from cosdask.storage import local_path, missing, resolve, stamp

_LOG = logging.getLogger(__name__)
#: Rows between two remembered keys, at most; fewer where rows are large.
_BLOCK_ROWS = 1024
_BLOCK_BYTES = 16 << 20
_PARTITION_BYTES = 64 << 20
#: Rows that shuffling reads from one place.
_SHUFFLE_PIECE = 64

# LMDB forbids opening a file twice in a process: all readers share one environment, and the last one closes it.
_OPEN: dict[str, tuple[Any, int]] = {}
# Reentrant: rows that are forgotten close their lease wherever that happens, maybe inside of the lock.
_LOCK = threading.RLock()


@contextmanager
def open_lmdb(path: Path) -> Iterator[Any]:
    """The LMDB's environment, read-only, without its lock file; shared in this process while the block lasts.

    Raises:
        StorageError: nothing there.
        DataError: not an LMDB, or cut short.
    """
    if not path.exists():
        raise missing(path, "LMDB")
    file = path / "data.mdb" if path.is_dir() else path
    if not file.exists():
        raise DataError(f"{path}: not an LMDB, the folder holds no data.mdb", path=str(path))
    name = str(path.resolve())
    with _LOCK:
        environment, readers = _OPEN.get(name) or (_opened(path, file), 0)
        _OPEN[name] = environment, readers + 1
    try:
        yield environment
    except lmdb.Error as error:
        raise DataError(f"{path}: damaged LMDB: {error}", path=str(path)) from error
    finally:
        with _LOCK:
            readers = _OPEN[name][1] - 1
            _OPEN[name] = environment, readers
            if readers == 0:
                del _OPEN[name]
                environment.close()


class Lease:
    """A transaction whose values are views of the mapped file; what holds the lease may use them.

    It ends, and the LMDB closes, when nobody holds it any more.
    """

    def __init__(self, path: Path) -> None:
        with ExitStack() as stack:
            environment = stack.enter_context(open_lmdb(path))
            self.transaction = stack.enter_context(environment.begin(buffers=True))
            weakref.finalize(self, stack.pop_all().close).atexit = False


def _opened(path: Path, file: Path) -> Any:
    try:
        environment = lmdb.open(
            str(path.resolve()), readonly=True, lock=False, readahead=False, subdir=path.is_dir(), max_readers=512
        )
    except lmdb.Error as error:
        raise _unreadable(path, error) from error
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if file.stat().st_size < needed:
        # Reading mapped pages beyond the file's end would kill the process.
        environment.close()
        raise DataError(f"{file}: {file.stat().st_size} bytes of {needed}; the copy is cut short", path=str(file))
    return environment


def _unreadable(path: Path, error: lmdb.Error) -> DataError:
    if "already open" in str(error):
        return DataError(f"{path}: this program has the LMDB open already; close it before reading", path=str(path))
    return DataError(f"{path}: not a readable LMDB: {error}", path=str(path))


class LmdbSource(ImageSource):
    """An LMDB of Datums, raw or encoded, bytes or floats: ``Data`` layers, and ``source_class: "LMDB"``."""

    kind: ClassVar[str] = "LMDB"

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        if self.layer.data_param.rand_skip:
            _LOG.warning(
                "%s: rand_skip is not applied: ranks begin at different rows anyway, and a run stays repeatable",
                self.where,
            )

    @cached_property
    def path(self) -> Path:
        """The LMDB's folder or file."""
        param = self.layer.memory_data_param if self.memory else self.layer.data_param
        if not param.source:
            raise ConfigError(f"{self.where}: it names no source", layer=self.layer.name)
        found = local_path(resolve(param.source, self.base_dir))
        if found is None:
            raise ConfigError(f"{self.where}: {param.source}: an LMDB is read from local disks only, for now")
        return found

    @property
    def place(self) -> str:
        """Where the rows lie, for messages."""
        return str(self.path)

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of :meth:`read`; rows of floats have ``float_data`` too."""
        self.index()
        with self._cursor() as cursor:
            cursor.first()
            datum = self._datum(cursor.key(), cursor.value(), 0)
        return image_schema("CHW", pa.int64(), floats=not datum.data and len(datum.float_data) > 0)

    @cached_property
    def row_bytes(self) -> int:
        """About how many bytes of the file belong to a row."""
        with open_lmdb(self.path) as environment:
            used = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
            return max(1, int(used // max(1, environment.stat()["entries"])))

    @property
    def target_rows(self) -> int:
        """Rows of a partition, so that it takes a moderate part of memory."""
        return min(8 * _BLOCK_ROWS, max(1, _PARTITION_BYTES // self.row_bytes))

    @property
    def shuffle_piece(self) -> int:
        """See :meth:`Source.shuffle_piece`: passing over the keys between two pieces reads no values."""
        return _SHUFFLE_PIECE

    def hold(self) -> AbstractContextManager[Any]:
        """See :meth:`Source.hold`: the open LMDB."""
        return open_lmdb(self.path)

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        with (
            open_lmdb(self.path) as environment,
            environment.begin() as transaction,
            transaction.cursor() as cursor,
        ):
            yield cursor

    def _count(self) -> Index:
        with open_lmdb(self.path) as environment:
            entries = environment.stat()["entries"]
        if entries == 0:
            raise DataError(
                f"{self.path}: the LMDB is empty; was it written to the end, and is this the right folder?",
                path=str(self.path),
            )
        file = self.path / "data.mdb" if self.path.is_dir() else self.path
        return kept_index(self.kind, [(str(file.resolve()), stamp(file))], self._walk)

    def _walk(self) -> Index:
        """One walk over the keys."""
        step = min(_BLOCK_ROWS, max(16, _BLOCK_BYTES // self.row_bytes))
        blocks = []
        with self._cursor() as cursor:
            keys = cursor.iternext(keys=True, values=False)
            while (first := next(keys, None)) is not None:
                blocks.append(Block(1 + sum(1 for _ in islice(keys, step - 1)), {"key": first.hex()}))
        return Index(tuple(blocks))

    def read(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.read`."""
        if start >= stop:
            return
        number, skip = self.index().locate(start)
        schema = self.schema
        size = max(1, min(chunk, CHUNK_BYTES // self.row_bytes))
        with self._cursor() as cursor:
            key = bytes.fromhex(self.index().blocks[number].place["key"])
            if not cursor.set_key(key):
                raise self.changed(self.rows, 0)
            rows = islice(cursor.iternext(), skip, skip + stop - start)
            position = start
            while taken := list(islice(rows, size)):
                datums = [self._datum(key, value, position + i) for i, (key, value) in enumerate(taken)]
                yield self._batch([key for key, _ in taken], datums, schema)
                position += len(taken)

    def stream(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[ImageRows]:
        """See :meth:`Source.stream`: the pixels stay in the mapped file."""
        if start >= stop:
            return
        number, skip = self.index().locate(start)
        key = bytes.fromhex(self.index().blocks[number].place["key"])
        lease = Lease(self.path)
        try:
            read = DatumReader().read
            with lease.transaction.cursor() as cursor:
                if not cursor.set_key(key):
                    raise self.changed(self.rows, 0)
                items = islice(cursor.iternext(), skip, skip + stop - start)
                while taken := list(islice(items, chunk)):
                    yield self._image_rows(taken, start, lease, read)
                    start += len(taken)
        except lmdb.Error as error:
            raise DataError(f"{self.path}: damaged LMDB: {error}", path=str(self.path)) from error

    def _image_rows(
        self, items: list[tuple[Any, Any]], first: int, lease: Lease, read: Callable[[Any], DatumView]
    ) -> ImageRows:
        names = [bytes(key) for key, _ in items]
        views = []
        for i, (_, value) in enumerate(items):
            try:
                views.append(read(value))
            except DataError as error:
                raise self._not_a_datum(names[i], first + i, error) from error
        return ImageRows(
            layout="CHW",
            names=names,
            labels=[view.label for view in views],
            sizes=[view.size for view in views],
            encoded=[view.encoded for view in views],
            data=[view.data for view in views],
            floats=[view.floats for view in views] if self.dtype == np.float32 else None,
            keep=(lease,),
        )

    def _batch(self, keys: list[bytes], datums: list[Any], schema: pa.Schema) -> pa.RecordBatch:
        columns: list[Any] = [
            [key.decode("utf-8", "backslashreplace") for key in keys],
            [datum.label for datum in datums],
            [datum.channels for datum in datums],
            [datum.height for datum in datums],
            [datum.width for datum in datums],
            [datum.encoded for datum in datums],
            [datum.data for datum in datums],
        ]
        if "float_data" in schema.names:
            columns.append([datum.float_data if len(datum.float_data) else None for datum in datums])
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _datum(self, key: bytes, value: bytes, row: int) -> caffe_pb2.Datum:
        try:
            return caffe_pb2.Datum.FromString(value)
        except DecodeError as error:
            raise self._not_a_datum(key, row, DataError(f"not a Datum: {error}")) from error

    def _not_a_datum(self, key: bytes, row: int, error: DataError) -> DataError:
        name = key.decode("utf-8", "backslashreplace")
        return DataError(f'{self.path}: row {row} (id "{name}"): {error}', path=str(self.path), row=row, id=name)
