"""Several data layers of one net, read side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from cosdask.data.base import CHUNK, Source
from cosdask.data.draw import Draw
from cosdask.data.index import Block, Extent, Index
from cosdask.data.kept_rows import rows_of
from cosdask.data.skips import bad_row
from cosdask.errors import ConfigError, CosdaskError


class ZippedSource(Source):
    """The sources of several data layers as one: row i takes row i of each.

    As in Caffe each layer goes through its own rows round and round; an epoch is that of the longest, and shorter ones
    begin again within it. The first layer gives the SampleIDs.

    Args:
        sources: one for each data layer, in the net's order; of equal batch size and ``rand_skip``.
    """

    kind: ClassVar[str] = "zipped"

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)
        first = self.sources[0]
        sizes = {source.where: source.batch_size for source in self.sources}
        if len(set(sizes.values())) > 1:
            raise ConfigError(f"data layers of one net need the same batch_size, found {sizes}")
        skips = {source.where: source.rand_skip for source in self.sources}
        if len(set(skips.values())) > 1:
            raise ConfigError(f"data layers of one net need the same rand_skip, or their rows part: found {skips}")
        super().__init__(first.layer, first.phase, first.base_dir, first.options)

    @property
    def batch_size(self) -> int:
        """Rows of a batch on one device."""
        return self.sources[0].batch_size

    @property
    def rand_skip(self) -> int:
        """See :meth:`Source.rand_skip`; the sources' common one."""
        return self.sources[0].rand_skip

    @property
    def tops(self) -> dict[str, tuple[int, ...]]:
        """The tops of all layers."""
        return {top: shape for source in self.sources for top, shape in source.tops.items()}

    @property
    def target_rows(self) -> int:
        """Rows of a partition: the smallest of the sources' wishes."""
        return min(source.target_rows for source in self.sources)

    @property
    def shuffled(self) -> bool:
        """See :meth:`Source.shuffled`: where one source is shuffled all are, for their rows stay side by side."""
        return any(source.shuffled for source in self.sources)

    @property
    def shuffle_window(self) -> int:
        """See :meth:`Source.shuffle_window`: what the source of the largest rows can hold."""
        return min(source.shuffle_window for source in self.sources)

    @property
    def shuffle_piece(self) -> int | None:
        """See :meth:`Source.shuffle_piece`: pieces only where all sources can read them."""
        pieces = [source.shuffle_piece for source in self.sources]
        return None if None in pieces else max(piece or 0 for piece in pieces)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """See :meth:`Source.hold`."""
        with ExitStack() as stack:
            for source in self.sources:
                stack.enter_context(source.hold())
            yield

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of all sources: ``<number>.<column>``."""
        return pa.schema(
            field.with_name(f"{number}.{field.name}")
            for number, source in enumerate(self.sources)
            for field in source.schema
        )

    def _count(self) -> Index:
        longest = max(self.sources, key=lambda source: source.rows)
        return Index(tuple(Block(block.rows, {}) for block in longest.index().blocks))

    def extents(self) -> list[Extent]:
        """See :meth:`Source.extents`: of the sources that are as long as the epoch; shorter ones come round again."""
        return [extent for source in self.sources if source.rows == self.rows for extent in source.extents()]

    def read(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.read`."""
        streams = [_Stream(source, start, stop, chunk) for source in self.sources]
        while start < stop:
            size = min(stop - start, *(stream.ready() for stream in streams))
            columns = [column for stream in streams for column in stream.take(size).columns]
            yield pa.RecordBatch.from_arrays(columns, schema=self.schema)
            start += size

    def _own(self, rows: pa.RecordBatch, number: int) -> pa.RecordBatch:
        """One source's columns, as that source gave them."""
        before = sum(len(source.schema) for source in self.sources[:number])
        schema = self.sources[number].schema
        return pa.RecordBatch.from_arrays(rows.columns[before : before + len(schema)], schema=schema)

    def decode(self, rows: pa.RecordBatch, draw: Draw) -> dict[str, np.ndarray]:
        """See :meth:`Source.decode`; each layer draws its own random numbers."""
        found: dict[str, np.ndarray] = {}
        for number, source in enumerate(self.sources):
            found.update(source.decode(self._own(rows, number), draw.fork(number)))
        return found

    def finish(self, raw: Mapping[str, Any], xp: ModuleType = np) -> dict[str, Any]:
        """See :meth:`Source.finish`."""
        return {top: array for source in self.sources for top, array in source.finish(raw, xp).items()}

    def frame_rows(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The first source's columns under their names, the others' as ``<layer>.<column>``."""
        names: list[str] = []
        columns: list[pa.Array] = []
        for number, source in enumerate(self.sources):
            own = source.frame_rows(self._own(rows, number))
            names += [name if number == 0 else f"{source.layer.name}.{name}" for name in own.schema.names]
            columns += own.columns
        return pa.RecordBatch.from_arrays(columns, names)

    def is_slow(self, rows: pa.RecordBatch) -> bool:
        """See :meth:`Source.is_slow`."""
        return any(source.is_slow(self._own(rows, number)) for number, source in enumerate(self.sources))

    def ids(self, rows: pa.RecordBatch) -> list[str]:
        """The first source's SampleIDs."""
        return self.sources[0].ids(self._own(rows, 0))

    def spec(self) -> dict[str, Any]:
        """See :meth:`Source.spec`."""
        return {"kind": self.kind, "sources": [source.spec() for source in self.sources]}

    @classmethod
    def _from_spec(cls, spec: Mapping[str, Any]) -> Source:
        return cls([Source.from_spec(part) for part in spec["sources"]])


class _Stream:
    """One source's rows from ``start`` to ``stop``, counted on past its end, round and round."""

    def __init__(self, source: Source, start: int, stop: int, chunk: int) -> None:
        self._batches = self._read(source, start, stop, chunk)
        self._rows: pa.RecordBatch | None = None

    @staticmethod
    def _read(source: Source, start: int, stop: int, chunk: int) -> Iterator[pa.RecordBatch]:
        while start < stop:
            first = start % source.rows
            last = min(source.rows, first + stop - start)
            try:
                yield from rows_of(source, first, last, chunk)
            except CosdaskError as error:
                row = bad_row(error)
                if row is None:
                    raise
                placed = source.placed(error)
                raise type(error)(placed.message, **{**placed.where, "row": start + row - first}) from error
            start += last - first

    def ready(self) -> int:
        """Rows that can be taken at once."""
        if self._rows is None or self._rows.num_rows == 0:
            self._rows = next(self._batches)
        return int(self._rows.num_rows)

    def take(self, size: int) -> pa.RecordBatch:
        """The next ``size`` rows, at most :meth:`ready`."""
        assert self._rows is not None
        taken, self._rows = self._rows.slice(0, size), self._rows.slice(size)
        return taken
