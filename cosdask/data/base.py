"""What every data source offers: rows counted, as frames, as record batches, and as the arrays a net is fed."""

from __future__ import annotations

import bisect
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from google.protobuf import text_format

from cosdask.data.batch import Batch, decode_batch, filled, full_batches
from cosdask.data.draw import Draw
from cosdask.data.index import Block, Extent, Index, file_extents
from cosdask.data.kept_rows import KeptRows
from cosdask.data.pieces import cut
from cosdask.data.plan import RowPlan, Segment
from cosdask.data.rows import Rows
from cosdask.data.shuffle import Shuffle
from cosdask.data.skips import Skips, bad_row
from cosdask.errors import ConfigError, CosdaskError, DataError
from cosdask.proto import caffe_pb2, own_phase
from cosdask.storage import FileStamp, resolve

if TYPE_CHECKING:
    import dask.dataframe as dd
    import pandas as pd

__all__ = ["Block", "Index", "Partition", "Source", "source_from_spec"]

#: Rows of a record batch unless asked otherwise.
CHUNK = 1024
#: Most bytes of a record batch's data column: Arrow's 32-bit offsets end at 2 GB.
CHUNK_BYTES = 64 << 20
#: Bytes of the rows that shuffling mixes with each other; rows, at least.
_WINDOW_BYTES, _LEAST_WINDOW = 128 << 20, 64
#: Sets the numbers of ``rand_skip`` apart from those of shuffling, crops and mirrors.
_SKIP_STREAM = -2


@dataclass(frozen=True)
class Partition:
    """Rows ``start`` to ``stop`` (excluded) of a source; ``index`` is the partition's number."""

    index: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows these are."""
        return self.stop - self.start


def window_rows(row_bytes: int, most: int) -> int:
    """How many rows shuffling mixes with each other, so that they are held in moderate memory.

    Args:
        row_bytes: of a row, about.
        most: rows, however small they are.

    Example:
        >>> window_rows(784, 4096), window_rows(1 << 20, 4096), window_rows(1 << 30, 4096)
        (4096, 128, 64)
    """
    return max(_LEAST_WINDOW, min(most, _WINDOW_BYTES // max(1, row_bytes)))


class Source(ABC):
    """The rows of one data layer.

    Args:
        layer: the data layer.
        phase: ``"TRAIN"`` or ``"TEST"``.
        base_dir: folder of the prototxt: relative names count from the working directory, then from here.
        options: ``seed`` (of random numbers in :meth:`batches`), ``partitions`` (how many), ``resize``, ``shuffle``
            (the rows of TRAIN), ``on_bad_rows`` (``"error"`` or ``"skip"``), ``persistent`` (rows that lie on another
            filesystem are kept on this machine's disk).

    Subclasses say how to count, read and decode; they keep no open file, so that sources pickle and may be used from
    several threads.
    """

    #: The name under which :meth:`from_spec` finds the class.
    kind: ClassVar[str] = ""
    _kinds: ClassVar[dict[str, type[Source]]] = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.kind:
            Source._kinds[cls.kind] = cls

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        phase: str = "TRAIN",
        base_dir: str | os.PathLike[str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.layer = layer
        self.phase = phase
        self.base_dir = None if base_dir is None else os.fspath(base_dir)
        self.options = dict(options or {})
        self._index: Index | None = None
        if self.batch_size < 1:
            raise ConfigError(f"{self.where}: batch_size is {self.batch_size}; at least 1 is needed", layer=layer.name)

    # What a kind of source must say.

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Rows of a batch on one device, as the layer says."""

    @cached_property
    @abstractmethod
    def tops(self) -> dict[str, tuple[int, ...]]:
        """Caffe's shape of each top, batch included, after the crop."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The columns of :meth:`read`, with the metadata ``layout``: ``CHW`` or ``HWC``."""

    @abstractmethod
    def _count(self) -> Index:
        """Count the rows, or look up a kept count."""

    @abstractmethod
    def read(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[pa.RecordBatch]:
        """Rows ``start`` to ``stop`` in storage order, in record batches of at most ``chunk`` rows.

        Raises:
            DataError: a row that cannot be read, named by source, row and id.
        """

    @abstractmethod
    def decode(self, rows: Any, draw: Draw) -> dict[str, np.ndarray]:
        """The raw arrays of rows (of :meth:`read` or :meth:`stream`): what travels to the device.

        Images are cropped, uint8 (float32 where rows hold floats) (n, C, h, w), under their top's name, with
        ``top:mirror`` bool (n,) where the layer mirrors and ``top:offset`` int32 (n, 2) where random crops meet a mean
        file. Everything else is float32.

        Raises:
            DataError: a row that cannot be decoded, named by source, row and id.
        """

    def finish(self, raw: Mapping[str, Any], xp: ModuleType = np) -> dict[str, Any]:
        """The tops, float32, from :meth:`decode`'s arrays; pure, so that it may run inside a compiled step."""
        return {top: raw[top].astype(np.float32) for top in self.tops}

    def frame_rows(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The columns of :meth:`frame` from those of :meth:`read`."""
        return rows

    def is_slow(self, rows: Any) -> bool:
        """Whether decoding rows like these is worth several threads."""
        return False

    @property
    def target_rows(self) -> int:
        """Rows that a partition should have, unless the option ``partitions`` says how many there are."""
        return 4096

    def stream(self, start: int, stop: int, chunk: int = CHUNK) -> Iterator[Rows]:
        """As :meth:`read`, in whatever form :meth:`decode`, :meth:`ids` and :meth:`is_slow` take at the least cost."""
        return self.read(start, stop, chunk)

    def hold(self) -> AbstractContextManager[Any]:
        """Keeps open what every read would open anew, while the feed runs."""
        return nullcontext()

    @property
    def shuffle_window(self) -> int:
        """Rows that shuffling mixes with each other, and so holds in memory at once."""
        return self.target_rows

    @property
    def shuffle_piece(self) -> int | None:
        """Rows that shuffling may read by themselves at little cost; None: only whole blocks of the index."""
        return None

    @property
    def stamps(self) -> list[tuple[str, FileStamp]] | None:
        """The files that hold the rows, with their sizes and times; None where these do not show every change."""
        return None

    def count_shares(self, shares: int) -> list[Any]:
        """At most so many parts (JSON values) of counting the rows, for workers to count apart.

        None where one worker counts them in no time, or the count is kept.
        """
        return []

    def count_share(self, share: Any) -> list[Block]:
        """Count one part; see :meth:`count_shares`."""
        raise NotImplementedError(f"{type(self).__name__} has no parts to count")

    def take_counts(self, blocks: Sequence[Block]) -> None:
        """Take the blocks of all parts, in their order, for the index."""
        self._index = Index(tuple(blocks))

    def extents(self) -> list[Extent]:
        """Which bytes of which files hold which rows, about, in storage order; none where that cannot be said."""
        return file_extents(self.index(), self._file_of)

    def _file_of(self, place: Mapping[str, Any]) -> str:
        """The file of a block's place; "" where blocks are not parts of files."""
        return str(place.get("file", ""))

    # What all sources have.

    @property
    def shuffled(self) -> bool:
        """Whether each epoch has an order of its own: by the option ``shuffle`` in TRAIN, or as the layer says."""
        own = {
            "ImageData": self.layer.image_data_param.shuffle,
            "HDF5Data": self.layer.hdf5_data_param.shuffle,
            "CoSData": self.layer.cos_data_param.shuffle,
        }
        return bool(own.get(self.layer.type)) or (self.phase == "TRAIN" and bool(self.options.get("shuffle")))

    @property
    def transform_phase(self) -> str:
        """The phase in which rows are cropped: the layer's own where it states one, as in Caffe."""
        return own_phase(self.layer, self.phase)

    @property
    def rand_skip(self) -> int:
        """The layer's ``rand_skip``: its rows begin at most so many rows, less one, after the first."""
        own = {"Data": self.layer.data_param.rand_skip, "ImageData": self.layer.image_data_param.rand_skip}
        return int(own.get(self.layer.type, 0))

    def skipped(self, seed: int) -> int:
        """How many rows every rank passes over before its first batch, as Caffe does where ``rand_skip`` is set.

        A function of the seed, so that a run that is taken up again goes on in its place; the rows passed over come
        when the epoch's end is reached. Layers of one net with the same ``rand_skip`` pass over the same rows.
        """
        limit = self.rand_skip
        return int(Draw(seed, 0, np.zeros(1, np.int64), _SKIP_STREAM).below(limit, 0)[0]) if limit else 0

    def named_place(self, source: str) -> str:
        """Where the ``source`` that the layer names leads.

        Raises:
            ConfigError: it names none.
        """
        if not source:
            raise ConfigError(f"{self.where}: it names no source", layer=self.layer.name)
        return resolve(source, self.base_dir)

    @property
    def where(self) -> str:
        """The source in words, for messages."""
        return f'data layer "{self.layer.name}"'

    def index(self) -> Index:
        """The blocks of rows; counted once, and kept over processes where counting takes time."""
        if self._index is None:
            self._index = self._count()
        return self._index

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.index().rows

    def partitions(self) -> list[Partition]:
        """Ranges of rows that together are all rows, in storage order, none of them empty."""
        count = self.options.get("partitions")
        if count:
            count = min(int(count), self.rows)
            ranges = [(self.rows * k // count, self.rows * (k + 1) // count) for k in range(count)]
        else:
            ranges = self.index().ranges(self.target_rows)
        return [Partition(number, start, stop) for number, (start, stop) in enumerate(ranges)]

    def frame(self, partition: Partition) -> pd.DataFrame:
        """A partition as a pandas frame with Arrow types.

        Image sources give CaffeOnSpark's columns: ``id``, ``label`` (text), ``channels``, ``height``, ``width``,
        ``encoded`` and ``data`` (bytes; raw images interleaved, height x width x channels, BGR).
        """
        import pandas as pd

        batches = [self.frame_rows(rows) for rows in self.read(partition.start, partition.stop)]
        schema = self.frame_rows(_empty(self.schema)).schema
        frame: pd.DataFrame = pa.Table.from_batches(batches, schema).to_pandas(types_mapper=pd.ArrowDtype)
        if len(frame) != partition.rows:
            raise self.changed(partition.rows, len(frame))
        return frame

    def to_dask(self) -> dd.DataFrame:
        """All rows as a dask dataframe, a partition each of :meth:`partitions`, with known types.

        The index is the rows' number in storage order, so divisions are known, and ``loc`` reads no more than it must.
        """
        import dask.dataframe as dd
        import pandas as pd

        empty = pa.Table.from_batches([self.frame_rows(_empty(self.schema))])
        meta = empty.to_pandas(types_mapper=pd.ArrowDtype)
        parts = self.partitions()
        divisions = (*(part.start for part in parts), parts[-1].stop - 1) if parts else None
        return dd.from_map(self._numbered, parts, meta=meta, divisions=divisions, label="cosdask-source")

    def _numbered(self, partition: Partition) -> pd.DataFrame:
        """A partition whose index is the rows' numbers."""
        import pandas as pd

        frame = self.frame(partition)
        frame.index = pd.RangeIndex(partition.start, partition.stop)
        return frame

    def batches(self, epochs: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Finished batches as Caffe's data layer gives them, in order.

        Args:
            epochs: None for endless batches that wrap round (and begin where ``rand_skip`` says); a number for that
                many passes from the first row on, the last batch short. Rows that are skipped are filled up with others
                of their batch in endless batches, else left out.

        Yields:
            float32 arrays by top.
        """
        seed = int(self.options.get("seed") or 0)
        plan = RowPlan(self.rows, 1, Shuffle.of(self, seed) if self.shuffled else None)
        segments: Iterator[Segment] = plan.stream(0, self.skipped(seed))
        if epochs is not None:
            segments = (Segment(epoch, 0, self.rows) for epoch in range(epochs))
        cuts = cut(self, segments, self.batch_size, seed, plan.shuffle)
        decoded = ((pieces, decode_batch(self, pieces, self.skips)) for pieces in cuts)
        if epochs is None:
            found: Iterator[Batch] = (filled(self, batch, pieces, self.skips) for pieces, batch in decoded)
        else:
            found = full_batches((batch for _, batch in decoded), self.batch_size)
        for batch in found:
            yield self.finish(batch.arrays)

    def ids(self, rows: Any) -> list[str]:
        """The SampleID of each row."""
        found: list[str] = rows.column("id").to_pylist()
        return found

    @cached_property
    def kept(self) -> KeptRows | None:
        """The rows kept on this machine's disk, where the option ``persistent`` asks for it and they lie elsewhere."""
        return KeptRows.of(self) if self.options.get("persistent") else None

    @property
    def skipping(self) -> bool:
        """Whether rows that cannot be read are left out, counted and listed in :attr:`skips`."""
        return self.options.get("on_bad_rows") == "skip"

    @cached_property
    def skips(self) -> Skips:
        """The rows left out so far in this process."""
        return Skips()

    def placed(self, error: CosdaskError) -> CosdaskError:
        """An error about one row, with the row's partition (and its column) added to what it says."""
        row = bad_row(error)
        if row is None or "partition" in error.where:
            return error
        partition = bisect.bisect_right(self._partition_stops, row % max(1, self.rows))
        column = f", column {error.where['column']!r}" if "column" in error.where else ""
        where = {**error.where, "partition": partition}
        return type(error)(f"{error.message} (partition {partition}{column})", **where)

    @cached_property
    def _partition_stops(self) -> list[int]:
        return [part.stop for part in self.partitions()]

    def changed(self, expected: int, found: int) -> DataError:
        """The error for a source that gives another number of rows than was counted."""
        return DataError(
            f"{self.where}: {expected} rows were counted, {found} read; did the data change meanwhile?",
            layer=self.layer.name,
        )

    def spec(self) -> dict[str, Any]:
        """JSON values from which another process makes the same source, without counting: see :meth:`from_spec`."""
        return {
            "kind": self.kind,
            "layer": text_format.MessageToString(self.layer, as_one_line=True),
            "phase": self.phase,
            "base_dir": self.base_dir,
            "options": self.options,
            "index": self.index().to_json(),
        }

    @staticmethod
    def from_spec(spec: Mapping[str, Any]) -> Source:
        """The source that :meth:`spec` described."""
        return source_from_spec(spec)

    @classmethod
    def _from_spec(cls, spec: Mapping[str, Any]) -> Source:
        layer = text_format.Parse(spec["layer"], caffe_pb2.LayerParameter())
        source = cls._build(layer, spec)
        source._index = Index.from_json(spec["index"])
        return source

    @classmethod
    def _build(cls, layer: caffe_pb2.LayerParameter, spec: Mapping[str, Any]) -> Source:
        return cls(layer, spec["phase"], spec["base_dir"], spec["options"])


def source_from_spec(spec: Mapping[str, Any]) -> Source:
    """The source that :meth:`Source.spec` described.

    Raises:
        ConfigError: a kind that this process does not know.
    """
    kind = spec.get("kind")
    if kind not in Source._kinds:
        raise ConfigError(f"a source of the kind {kind!r} is not known here; import the module that registers it")
    return Source._kinds[kind]._from_spec(spec)


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)
