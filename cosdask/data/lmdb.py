"""LMDBs of Datum records, read in place on any filesystem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from cosdask.data.datums import DatumSource
from cosdask.data.index import Block, Extent, Index, find_index, keep_index, kept_index
from cosdask.data.lmdb_tree import LmdbTree
from cosdask.data.rows import Records
from cosdask.errors import DataError
from cosdask.storage import FileStamp, exists, is_folder, join, local_path, missing

#: Rows that shuffling reads from one place of a local file, where no more is read than is wanted.
_SHUFFLE_PIECE = 64
#: Shuffling mixes at most one of so many parts of a remote file at a time, but at least so many bytes.
_WINDOWS = 128
_LEAST_WINDOW = 8 << 20
#: Bytes of leaf pages of a remote file that several workers count together.
_SHARED_BYTES = 8 << 20

T = TypeVar("T")


class LmdbSource(DatumSource):
    """An LMDB of Datums, raw or encoded, bytes or floats: ``Data`` layers, and ``source_class: "LMDB"``.

    A folder with the file ``data.mdb``, or such a file. Local files are mapped; others are read by ranges of pages, of
    which each worker fetches those of its own rows.
    """

    kind: ClassVar[str] = "LMDB"

    @cached_property
    def file(self) -> str:
        """The file of pages: an absolute local path or a URL.

        Raises:
            StorageError: nothing there.
            DataError: a folder without such a file.
        """
        here = local_path(self.location)
        name = self.location if here is None else str(here.resolve())
        if not is_folder(name):
            if not exists(name):
                raise missing(self.location, "LMDB")
            return name
        file = join(name, "data.mdb")
        if not exists(file):
            remedy = "; it is a LevelDB: state backend: LEVELDB" if exists(join(name, "CURRENT")) else ""
            raise DataError(f"{name}: not an LMDB, the folder holds no data.mdb{remedy}", path=name)
        return file

    @contextmanager
    def _tree(self) -> Iterator[LmdbTree]:
        with LmdbTree(self.file) as tree:
            if self._index is not None and tree.meta.rows != self._index.rows:
                raise self.changed(self._index.rows, tree.meta.rows)
            yield tree

    @cached_property
    def row_bytes(self) -> int:
        """About how many bytes of the file belong to a row, at least 1."""
        with self._tree() as tree:
            return tree.meta.row_bytes

    @property
    def rows(self) -> int:
        """How many rows there are; the file says it, and the index proves it."""
        if self._index is not None:
            return self._index.rows
        with self._tree() as tree:
            return tree.meta.rows

    @property
    def stamps(self) -> list[tuple[str, FileStamp]] | None:
        """See :meth:`Source.stamps`; each transaction of a writer is a change."""
        with self._tree() as tree:
            return [(self.file, FileStamp(tree.stamp.size, f"{tree.stamp.changed} {tree.meta.transaction}"))]

    @property
    def shuffle_piece(self) -> int | None:
        """See :meth:`Source.shuffle_piece`: single pages of remote files would be many requests."""
        return _SHUFFLE_PIECE if local_path(self.file) is not None else None

    @property
    def shuffle_window(self) -> int:
        """See :meth:`Source.shuffle_window`: ranks that share a window both fetch it, so windows are small parts."""
        if local_path(self.file) is not None:
            return super().shuffle_window
        with self._tree() as tree:
            part = max(_LEAST_WINDOW, tree.meta.file_size // _WINDOWS)
        return max(1, min(self.target_rows, part // self.row_bytes))

    def hold(self) -> AbstractContextManager[Any]:
        """See :meth:`Source.hold`: a local file stays mapped."""
        return self._tree() if local_path(self.file) is not None else nullcontext()

    def _count(self) -> Index:
        with self._tree() as tree:
            if not tree.meta.rows:
                raise self._no_rows()
            step = self._block_rows(tree.meta.rows)
            return kept_index(*self._kept(tree), lambda: tree.index(tree.count(step=step)))

    def _kept(self, tree: LmdbTree) -> tuple[str, list[tuple[str, FileStamp]]]:
        # A file that was written to has another transaction, even where its time is too coarse to show it.
        return f"{self.kind} {tree.meta.transaction}", [(self.file, tree.stamp)]

    def count_shares(self, shares: int) -> list[Any]:
        """See :meth:`Source.count_shares`: stretches of leaf pages, where these are many and far away."""
        if self._index is not None or local_path(self.file) is not None:
            return []
        with self._tree() as tree:
            few = tree.meta.leaf_pages * tree.meta.page_size < _SHARED_BYTES
            return [] if few or find_index(*self._kept(tree)) is not None else tree.shares(shares)

    def count_share(self, share: Any) -> list[Block]:
        """See :meth:`Source.count_share`."""
        start, stop = share
        with self._tree() as tree:
            step = self._block_rows(tree.meta.rows)
            return tree.count(tuple(start), None if stop is None else tuple(stop), step)

    def take_counts(self, blocks: Sequence[Block]) -> None:
        """See :meth:`Source.take_counts`."""
        with self._tree() as tree:
            self._index = tree.index(blocks)
            keep_index(*self._kept(tree), self._index)

    def extents(self) -> list[Extent]:
        """See :meth:`Source.extents`: databases that were written once hold their rows from front to back."""
        return [Extent(0, self.rows, self.file)]

    def _records(self, start: int, stop: int) -> Iterator[Records]:
        with self._tree() as tree:
            if start == 0:
                # Looking at the first rows needs no index.
                records = tree.rows(tree.first, 0, stop)
            else:
                number, skip = self.index().locate(start)
                records = tree.rows(self.index().blocks[number].place["at"], skip, stop - start)
            yield from records if tree.is_local else _one_ahead(records)


_END: Any = object()


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, of which the next is made in a thread while the caller works on one."""
    with ThreadPoolExecutor(1, "cosdask-ahead") as pool:
        coming = pool.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, items, _END)
            yield item
