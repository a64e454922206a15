"""CaffeOnSpark's SequenceFiles of images: ``source_class: "SeqImageDataSource"``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from typing import IO, Any, ClassVar

import pyarrow as pa

from cosdask.data.base import CHUNK, CHUNK_BYTES
from cosdask.data.hadoop import BYTES, KeyReader, Record, RowKey, SequenceReader, read_bytes
from cosdask.data.image_rows import Buffer, ImageRows
from cosdask.data.images import ImageSource, image_schema
from cosdask.data.index import Block, Index, find_index, keep_index, kept_index
from cosdask.data.parts import part_files
from cosdask.errors import DataError, StorageError
from cosdask.storage import FileStamp, filesystem, local_path, missing, stamp

#: Rows and bytes of a block of the index, about.
_BLOCK_ROWS = 1024
_BLOCK_BYTES = 4 << 20
#: Bytes that one thread counts, and threads that count.
_RANGE = 64 << 20
_COUNTERS = 8
#: Bytes of files far away from which all workers count.
_SHARED_BYTES = 64 << 20
_PARTITION_BYTES = 64 << 20
_BUFFER = 1 << 20


@contextmanager
def open_sequence(name: str) -> Iterator[SequenceReader]:
    """A SequenceFile, local or remote, while the block lasts.

    Raises:
        StorageError: nothing there.
        DataError: no SequenceFile.
    """
    size = stamp(name).size
    with _open(name) as file:
        yield SequenceReader(file, name, size)


def _open(name: str) -> IO[bytes]:
    here = local_path(name)
    try:
        if here is not None:
            return here.open("rb", buffering=_BUFFER)
        fs, path = filesystem(name)
        opened: IO[bytes] = fs.open(path, "rb")
        return opened
    except FileNotFoundError as error:
        raise missing(name, "SequenceFile") from error
    except OSError as error:
        raise StorageError(f"{name}: cannot be opened: {error}", path=name) from error


class SequenceSource(ImageSource):
    """SequenceFiles with CaffeOnSpark's keys: one file, a folder of parts, or a glob.

    Keys and values are BytesWritables: the key a serialized Java tuple (id, label) or (id, label, channels, height,
    width, encoded), the value an encoded image or raw interleaved pixels. Partitions are runs of records between sync
    marks; files follow each other in the order of their names.
    """

    kind: ClassVar[str] = "SeqImageDataSource"

    @property
    def place(self) -> str:
        """Where the rows lie, for messages."""
        return self.named_place(self.layer.memory_data_param.source)

    @property
    def schema(self) -> pa.Schema:
        """The columns of :meth:`read`."""
        return image_schema("HWC", pa.string())

    @cached_property
    def files(self) -> list[str]:
        """The parts, in the order of their names."""
        return part_files(self.place, "SequenceFile")

    @property
    def target_rows(self) -> int:
        """Rows of a partition, so that it takes a moderate part of memory."""
        size = sum(int(block.place["size"]) for block in self.index().blocks)
        return min(8 * _BLOCK_ROWS, max(1, _PARTITION_BYTES * self.rows // max(1, size)))

    @cached_property
    def _kept(self) -> list[tuple[str, FileStamp]]:
        """The files with their sizes and times, for the kept index."""
        return [(name, stamp(name)) for name in self.files]

    @property
    def stamps(self) -> list[tuple[str, FileStamp]] | None:
        """See :meth:`Source.stamps`."""
        return self._kept

    def _count(self) -> Index:
        return kept_index(self.kind, self._kept, self._walk)

    def _walk(self) -> Index:
        """Count the records between sync marks, ranges of the files side by side."""
        ranges = self._ranges(_RANGE)
        with ThreadPoolExecutor(min(_COUNTERS, len(ranges))) as pool:
            return self._joined([block for found in pool.map(self._count_range, ranges) for block in found])

    def _ranges(self, size: int) -> list[tuple[int, int, int]]:
        """Files' numbers with ranges of their bytes."""
        return [
            (number, start, start + size)
            for number, (_, found) in enumerate(self._kept)
            for start in range(0, max(1, found.size), size)
        ]

    def count_shares(self, shares: int) -> list[Any]:
        """See :meth:`Source.count_shares`: ranges of the files, where these are large and far away."""
        total = sum(found.size for _, found in self._kept)
        if self._index is not None or local_path(self.files[0]) is not None or total < _SHARED_BYTES:
            return []
        if find_index(self.kind, self._kept) is not None:
            return []
        ranges = self._ranges(min(_RANGE, -(-total // shares)))
        cuts = [len(ranges) * k // shares for k in range(shares + 1)]
        return [ranges[start:stop] for start, stop in pairwise(cuts) if start < stop]

    def count_share(self, share: Any) -> list[Block]:
        """See :meth:`Source.count_share`."""
        return [block for number, start, stop in share for block in self._count_range((number, start, stop))]

    def take_counts(self, blocks: Sequence[Block]) -> None:
        """See :meth:`Source.take_counts`."""
        self._index = self._joined(list(blocks))
        keep_index(self.kind, self._kept, self._index)

    def _joined(self, blocks: list[Block]) -> Index:
        if not blocks:
            raise DataError(f"{self.place}: the SequenceFiles hold no rows", path=self.place)
        self._check_joins(blocks)
        return Index(tuple(blocks))

    def _check_joins(self, blocks: list[Block]) -> None:
        """What one thread ended with must be where the next began; damage may hide a mark from one of them."""
        for one, other in pairwise(blocks):
            place, ends = other.place, one.place["offset"] + one.place["size"]
            if one.place["file"] == place["file"] and ends != place["offset"]:
                name = self.files[place["file"]]
                raise DataError(
                    f"{name}: byte {ends}: damaged SequenceFile: records end here, the next sync mark is at byte "
                    f"{place['offset']}",
                    path=name,
                    offset=ends,
                )

    def _count_range(self, part: tuple[int, int, int]) -> list[Block]:
        number, start, stop = part
        with open_sequence(self.files[number]) as reader:
            header = reader.header
            if (header.key_class, header.value_class) != (BYTES, BYTES):
                raise DataError(
                    f"{reader.name}: keys of {header.key_class} and values of {header.value_class}; {self.where} takes "
                    f"{BYTES} for both, as CaffeOnSpark's tools write them; `cosdask peek` shows what is there",
                    path=reader.name,
                )
            return [
                Block(chunk.rows, {"file": number, "offset": chunk.offset, "size": chunk.size})
                for chunk in reader.chunks(start, stop, _BLOCK_ROWS, _BLOCK_BYTES)
            ]

    def spec(self) -> dict[str, Any]:
        """See :meth:`Source.spec`; blocks count the files, so these go along: another may have come meanwhile."""
        return {**super().spec(), "files": self.files}

    @classmethod
    def _from_spec(cls, spec: Mapping[str, Any]) -> SequenceSource:
        source = super()._from_spec(spec)
        assert isinstance(source, SequenceSource)
        source.files = list(spec["files"])
        return source

    def _file_of(self, place: Mapping[str, Any]) -> str:
        return self.files[place["file"]]

    def read(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.read`."""
        for rows in self._chunks(start, stop, chunk):
            columns = [*zip(*(key for key, _ in rows), strict=True), [bytes(data) for _, data in rows]]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def stream(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[ImageRows]:
        """See :meth:`Source.stream`: images are views of the records as they were read."""
        for rows in self._chunks(start, stop, chunk):
            names, labels, channels, heights, widths, encoded = map(list, zip(*(key for key, _ in rows), strict=True))
            sizes = list(zip(channels, heights, widths, strict=True))
            yield ImageRows("HWC", names, labels, sizes, encoded, [data for _, data in rows])

    def _chunks(self, start: int, stop: int, chunk: int) -> Iterator[list[tuple[RowKey, Buffer]]]:
        rows: list[tuple[RowKey, Buffer]] = []
        size = 0
        keys = KeyReader()
        for row, record, name in self._records(start, stop):
            try:
                found = keys.read(bytes(read_bytes(record.key))), read_bytes(record.value)
            except DataError as error:
                where = f"{name}: byte {record.offset}, row {row}"
                raise DataError(f"{where}: {error}", path=name, row=row, offset=record.offset) from error
            rows.append(found)
            size += len(found[1])
            if len(rows) == chunk or size >= CHUNK_BYTES:
                yield rows
                rows, size = [], 0
        if rows:
            yield rows

    def _records(self, start: int, stop: int) -> Iterator[tuple[int, Record, str]]:
        """The records of a range of rows, with their rows' numbers and their files."""
        index = self.index()
        while start < stop:
            number, skip = index.locate(start)
            place = index.blocks[number].place
            last = number
            while last + 1 < len(index.blocks) and index.blocks[last + 1].place["file"] == place["file"]:
                last += 1
            end = min(stop, index.starts[last + 1])
            name = self.files[place["file"]]
            with open_sequence(name) as reader:
                for row, record in zip(range(start, end), reader.records(place["offset"], skip, start), strict=False):
                    yield row, record, name
                    start = row + 1
            if start != end:
                raise self.changed(self.rows, start)
