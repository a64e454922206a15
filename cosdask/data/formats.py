"""Readers of table formats: parquet (row groups), ORC (stripes), Arrow files (record batches), JSON lines and CSV.

Arrow's modules for each format are loaded when a file of that format is opened: together they take a tenth of a rank's
imports.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from cosdask.data.index import Block
from cosdask.data.tables import FileTable
from cosdask.errors import ConfigError, DataError, StorageError, did_you_mean
from cosdask.storage import filesystem, missing

if TYPE_CHECKING:
    import pyarrow.orc as pa_orc
    import pyarrow.parquet as pq

#: Bytes of text that are parsed at once; a longer line makes a block of its own.
TEXT_BLOCK = 4 << 20
#: Rows and bytes of a batch of parquet, at most.
_BATCH_ROWS, _BATCH_BYTES = 1024, 8 << 20
#: Most bytes of one line.
_LINE_LIMIT = 256 << 20
_SCAN = 1 << 20
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}


@contextmanager
def _reading(name: str, what: str) -> Iterator[None]:
    """Errors of a reader become cosdask's, with the file's name."""
    try:
        yield
    except (DataError, StorageError):
        raise
    except FileNotFoundError as error:
        raise missing(name) from error
    except (pa.ArrowException, OSError, EOFError, ValueError, csv.Error) as error:
        raise DataError(f"{name}: {what}: {error}", path=name) from error


class ParquetTable(FileTable):
    """Parquet; a block for each row group, counted from the footers."""

    format: ClassVar[str] = "parquet"

    @contextmanager
    def _open(self, name: str) -> Iterator[pq.ParquetFile]:
        import pyarrow.parquet as pq

        fs, path = filesystem(name)
        with _reading(name, "not a readable parquet file"), fs.open(path, "rb") as raw, pq.ParquetFile(raw) as file:
            yield file

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the first part."""
        with self._open(self.files[0]) as file:
            return file.schema_arrow.remove_metadata()

    def blocks_of(self, name: str) -> list[Block]:
        """See :meth:`FileTable.blocks_of`."""
        with self._open(name) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        return [Block(size, {"file": name, "group": group}) for group, size in enumerate(sizes) if size]

    def read_block(self, block: Block, skip: int, count: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Table.read_block`."""
        name, group = block.place["file"], block.place["group"]
        with self._open(name) as file, _reading(name, f"row group {group} cannot be read"):
            there = _some(file.schema_arrow.names, columns)
            for rows in file.iter_batches(_batch_rows(file, group), row_groups=[group], columns=there):
                part = rows.slice(skip, count)
                skip = max(0, skip - rows.num_rows)
                count -= part.num_rows
                if part.num_rows:
                    yield part
                if not count:
                    return


def _batch_rows(file: pq.ParquetFile, group: int) -> int:
    """Rows of a row group to take at once: some megabytes, for rows may be large."""
    about = file.metadata.row_group(group)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * about.num_rows // max(1, about.total_byte_size)))


class OrcTable(FileTable):
    """ORC; a block for each stripe."""

    format: ClassVar[str] = "orc"

    @contextmanager
    def _open(self, name: str) -> Iterator[pa_orc.ORCFile]:
        import pyarrow.orc as pa_orc

        fs, path = filesystem(name)
        with _reading(name, "not a readable ORC file"), fs.open(path, "rb") as raw:
            yield pa_orc.ORCFile(raw)

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the first part."""
        with self._open(self.files[0]) as file:
            return file.schema.remove_metadata()

    def blocks_of(self, name: str) -> list[Block]:
        """See :meth:`FileTable.blocks_of`; the narrowest column of each stripe is read to count its rows."""
        with self._open(name) as file:
            if file.nstripes == 1:
                sizes = [int(file.nrows)]
            else:
                narrow = min(file.schema, key=_width).name if len(file.schema) else None
                sizes = [file.read_stripe(at, columns=[narrow]).num_rows for at in range(file.nstripes)]
        return [Block(size, {"file": name, "stripe": at}) for at, size in enumerate(sizes) if size]

    def read_block(self, block: Block, skip: int, count: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Table.read_block`."""
        name, stripe = block.place["file"], block.place["stripe"]
        with self._open(name) as file, _reading(name, f"stripe {stripe} cannot be read"):
            there = _some(file.schema.names, columns)
            yield _batch(file.read_stripe(stripe, columns=there)).slice(skip, count)


def _some(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The columns to read: those that are wanted; all where none is there, so that an error can name them."""
    return [name for name in names if name in set(wanted)] or list(names)


def _width(field: pa.Field) -> int:
    """How much there may be to read of a column, roughly."""
    try:
        return int(field.type.bit_width)
    except ValueError:
        return 1 << 20 if pa.types.is_nested(field.type) or pa.types.is_binary(field.type) else 1 << 10


def _batch(rows: pa.RecordBatch | pa.Table) -> pa.RecordBatch:
    if isinstance(rows, pa.RecordBatch):
        return rows
    whole = rows.combine_chunks().to_batches()
    return whole[0] if whole else pa.RecordBatch.from_pylist([], schema=rows.schema)


class ArrowTable(FileTable):
    """Arrow IPC files (``feather``); a block for each record batch."""

    format: ClassVar[str] = "arrow"

    @contextmanager
    def _open(self, name: str) -> Iterator[pa.RecordBatchFileReader]:
        fs, path = filesystem(name)
        with _reading(name, "not a readable Arrow file"), fs.open(path, "rb") as raw, pa.ipc.open_file(raw) as file:
            yield file

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the first part."""
        with self._open(self.files[0]) as file:
            return file.schema.remove_metadata()

    def blocks_of(self, name: str) -> list[Block]:
        """See :meth:`FileTable.blocks_of`."""
        with self._open(name) as file:
            sizes = [file.get_batch(at).num_rows for at in range(file.num_record_batches)]
        return [Block(size, {"file": name, "batch": at}) for at, size in enumerate(sizes) if size]

    def read_block(self, block: Block, skip: int, count: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Table.read_block`."""
        name = block.place["file"]
        with self._open(name) as file:
            yield file.get_batch(block.place["batch"]).slice(skip, count)


class TextTable(FileTable):
    """Lines of text, a row a line; a block for every few megabytes.

    Compressed parts (``.gz``, ``.bz2``, ``.zst``, ``.lz4``) are read from their beginning, block after block.
    """

    textual = True

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        fs, path = filesystem(name)
        codec = next((codec for ending, codec in _CODECS.items() if path.endswith(ending)), None)
        with _reading(name, f"cannot be read as {self.format}"), fs.open(path, "rb") as raw:
            if codec is None:
                yield raw
            else:
                with pa.CompressedInputStream(pa.PythonFile(raw, "r"), codec) as stream:
                    yield stream

    def _lines(self, name: str) -> Iterator[tuple[int, int, int]]:
        """Pieces of whole lines: (offset, length, rows)."""
        offset, start, rows, filled = 0, 0, 0, False
        with self._open(name) as file:
            while data := file.read(_SCAN):
                position = 0
                while (end := data.find(b"\n", position)) >= 0:
                    filled = filled or bool(data[position:end].strip())
                    rows, filled = rows + filled, False
                    position = end + 1
                    if offset + position - start >= TEXT_BLOCK:
                        yield start, offset + position - start, rows
                        start, rows = offset + position, 0
                filled = filled or bool(data[position:].strip())
                offset += len(data)
                if offset - start > _LINE_LIMIT:
                    raise DataError(f"{name}: a line of more than {_LINE_LIMIT:,} bytes at {start}", path=name)
        if offset > start:
            yield start, offset - start, rows + filled

    def blocks_of(self, name: str) -> list[Block]:
        """See :meth:`FileTable.blocks_of`; every line is looked at once."""
        head = self._head(name)
        blocks = []
        for offset, length, rows in self._lines(name):
            if offset == 0:
                rows -= head
            if rows > 0:
                blocks.append(Block(rows, {"file": name, "offset": offset, "length": length}))
        return blocks

    def _head(self, name: str) -> int:
        """Lines before the first row."""
        return 0

    def read_block(self, block: Block, skip: int, count: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Table.read_block`."""
        name, offset, length = (block.place[key] for key in ("file", "offset", "length"))
        what = f"the lines from byte {offset} on cannot be read"
        with self._open(name) as file, _reading(name, what):
            text = _part(file, offset, length)
            rows = self.parse(name, text, offset == 0)
        if rows.num_rows != block.rows:
            raise DataError(
                f"{name}: {block.rows} rows were counted from byte {offset} on, {rows.num_rows} read; did the data "
                "change meanwhile?",
                path=name,
            )
        for field in self.schema:
            # Spark leaves fields out that are null
            if field.name not in rows.schema.names:
                rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        yield from rows.slice(skip, count).to_batches()

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the first lines."""
        for name in self.files:
            for offset, length, rows in self._lines(name):
                if rows > (self._head(name) if offset == 0 else 0):
                    with self._open(name) as file, _reading(name, f"cannot be read as {self.format}"):
                        return self.parse(name, _part(file, offset, length), offset == 0).schema
        raise DataError(f"{self.place}: the {self.format} files hold no rows", path=self.place)

    def parse(self, name: str, text: bytes, first: bool) -> pa.Table:
        """The rows of some lines of a file; ``first`` where it begins with them."""
        raise NotImplementedError


def _part(file: Any, offset: int, length: int) -> bytes:
    if isinstance(file, pa.CompressedInputStream):
        left = offset
        while left:
            left -= len(file.read(min(left, _SCAN)) or _cut_short())
    else:
        file.seek(offset)
    data = bytes(file.read(length))
    return data if len(data) == length else bytes(_cut_short())


def _cut_short() -> bytes:
    raise EOFError("it ends earlier than it did when its rows were counted")


class JsonTable(TextTable):
    """One JSON object a line, as Spark writes them; fields that are missing are null."""

    format: ClassVar[str] = "json"

    def parse(self, name: str, text: bytes, first: bool) -> pa.Table:
        """See :meth:`TextTable.parse`."""
        import pyarrow.json as pa_json

        options = pa_json.ReadOptions(use_threads=False, block_size=max(len(text), 1))
        rows = pa_json.read_json(io.BytesIO(text), options)
        texts = pa.schema([field.with_type(_undated(field.type)) for field in rows.schema])
        if texts == rows.schema:
            return rows
        # Arrow takes texts for times where all of a block look like some, and writes them in another way
        return pa_json.read_json(io.BytesIO(text), options, pa_json.ParseOptions(explicit_schema=texts))


def _undated(kind: pa.DataType) -> pa.DataType:
    """The same type, with texts for times, at any depth."""
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_undated(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_undated(field.type)) for field in kind])
    return kind


class CsvTable(TextTable):
    """CSV without line breaks inside of fields; every column is text, as for Spark.

    The first line of each part is a header where one of its fields has the name of a column that is wanted; else
    columns are called ``_c0``, ``_c1`` and on, as Spark calls them.
    """

    format: ClassVar[str] = "csv"

    def __init__(self, place: str, wanted: Sequence[str] = ()) -> None:
        super().__init__(place, wanted)
        self._headers: dict[str, list[str]] = {}

    @property
    def kept_as(self) -> str:
        """See :meth:`FileTable.kept_as`: what is wanted decides whether a first line counts."""
        return f"{super().kept_as}:{sorted(set(self.wanted))}"

    def _fields(self, name: str) -> list[str]:
        """The fields of a file's first line; none where it is empty."""
        line = b""
        with self._open(name) as file:
            while b"\n" not in line and len(line) <= _LINE_LIMIT and (data := file.read(_SCAN)):
                line += data
        line = line.lstrip(b"\xef\xbb\xbf").split(b"\n", 1)[0]
        csv.field_size_limit(_LINE_LIMIT)
        with _reading(name, "its first line is no CSV"):
            return next(csv.reader([line.decode()], escapechar="\\"), []) if line.strip() else []

    def _header(self, name: str) -> list[str]:
        """The columns' names that a file begins with; none where it begins with a row."""
        if name not in self._headers:
            fields = self._fields(name)
            self._headers[name] = fields if set(fields) & set(self.wanted) else []
        return self._headers[name]

    def _head(self, name: str) -> int:
        return int(bool(self._header(name)))

    @cached_property
    def _names(self) -> list[str]:
        """The columns' names of files without a header: those of the first file."""
        for name in self.files:
            if fields := self._fields(name):
                return self._header(name) or [f"_c{at}" for at in range(len(fields))]
        raise DataError(f"{self.place}: the csv files hold no rows", path=self.place)

    def parse(self, name: str, text: bytes, first: bool) -> pa.Table:
        """See :meth:`TextTable.parse`."""
        names = self._header(name) or self._names
        import pyarrow.csv as pa_csv

        reading = pa_csv.ReadOptions(
            use_threads=False,
            column_names=names,
            skip_rows=self._head(name) if first else 0,
            block_size=max(len(text), 1),
        )
        # Spark escapes quotes by a backslash, others double them; both are understood
        parsing = pa_csv.ParseOptions(escape_char="\\")
        converting = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        return pa_csv.read_csv(io.BytesIO(text), reading, parsing, converting)


_FORMATS: dict[str, Callable[[str, Sequence[str]], FileTable]] = {
    "parquet": ParquetTable,
    "orc": OrcTable,
    "json": JsonTable,
    "csv": CsvTable,
    "arrow": ArrowTable,
    "feather": ArrowTable,
    "ipc": ArrowTable,
}


def open_table(name: str, place: str, wanted: Sequence[str], where: str) -> FileTable:
    """The files of a format.

    Args:
        name: ``dataframe_format``: parquet, orc, json, csv or arrow, in any case; "" is parquet.
        place: file, folder or glob; local or a URL.
        wanted: columns that will be asked for; they tell a CSV's header from its rows.
        where: the layer, for messages.

    Raises:
        ConfigError: a format that is not known.
    """
    maker = _FORMATS.get((name or "parquet").lower())
    if maker is None:
        raise ConfigError(
            f'{where}: dataframe_format "{name}" is not known; there are {", ".join(_FORMATS)}.'
            f"{did_you_mean(name, _FORMATS)}"
        )
    return maker(place, wanted)
