"""A dataframe given as a source: what its rows are to the net's data layer, and who reads which of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import pyarrow as pa
from distributed import Client
from google.protobuf import text_format

from cosdask.data import RowPlan, arrow_table, frame_source, window
from cosdask.data.staged import StagedTable
from cosdask.errors import DataError
from cosdask.parallel.frames import Piece, Range, StagedFrame
from cosdask.parallel.group import Member
from cosdask.parallel.job import Job
from cosdask.parallel.locality import Locality
from cosdask.parallel.waiting import SILENCE, results_of, results_of_work
from cosdask.proto import caffe_pb2

#: From the number of rows and of members to the ranges that each member reads.
Reads = Callable[[int, int], list[list[Range]]]


def train_reads(devices: int) -> Reads:
    """What training without shuffling reads: each rank its range of every epoch (design.md, invariant 4)."""

    def reads(rows: int, members: int) -> list[list[Range]]:
        world = members * devices
        plan = RowPlan(rows, world)
        period = world // math.gcd(rows % world, world)
        return [
            [
                (segment.start, segment.stop)
                for rank in range(member * devices, (member + 1) * devices)
                for segment in (plan.range(rank, epoch) for epoch in range(period))
            ]
            for member in range(members)
        ]

    return reads


def evaluation_reads(rows: int, members: int) -> list[list[Range]]:
    """What a test over all rows reads, each member its part."""
    parts = [window(0, rows, rows, members, member) for member in range(members)]
    return [[(segment.start, segment.stop) for segment in part] for part in parts]


def all_reads(rows: int, members: int) -> list[list[Range]]:
    """Everything on every member: validation goes on where it stopped, and shuffled epochs mix all rows."""
    return [[(0, rows)] for _ in range(members)]


class FrameInput:
    """A dask dataframe that takes the place of a data layer's rows in one run.

    Args:
        client: of the cluster.
        frame: the dataframe.
        layer: the data layer that says how rows become tops.
        phase: ``"TRAIN"`` or ``"TEST"``.
        options: see :class:`cosdask.data.Source`.
        members: who reads, in rank order.
        reads: which rows each of them reads.
        order: of the rows in the run that is resumed.
        silence: seconds without a heartbeat after which a worker counts as hung.

    Raises:
        DataError: no rows, or rows that cannot be written.
        ConfigError: a layer that takes no dataframe.
    """

    def __init__(
        self,
        client: Client,
        frame: Any,
        layer: caffe_pb2.LayerParameter,
        phase: str,
        options: dict[str, Any],
        members: Sequence[Member],
        reads: Reads,
        order: Sequence[Piece] | None = None,
        silence: float = SILENCE,
    ) -> None:
        self.client = client
        template = frame_source(layer, phase, None, options, staged=StagedTable([], []))
        self._reads = all_reads if template.shuffled else reads

        def shares(rows: int) -> list[int]:
            # shares of the first epoch, so that each worker's own rows are the first that it reads
            plan = RowPlan(rows, len(members))
            return [plan.range(member, 0).rows for member in range(len(members))]

        self.staged = StagedFrame(client, frame, members, shares, order, silence)
        self._about = (text_format.MessageToString(layer, as_one_line=True), phase, options)
        self._spec: dict[str, Any] | None = None

    def spec(self, members: Sequence[Member]) -> dict[str, Any]:
        """Bring to these members the rows that they read; the specification of the source that reads them.

        Raises:
            GroupError: a member is lost meanwhile (``died``).
            DataError: rows that cannot be read, or cannot be computed again.
        """
        rows = self.staged.table.count().rows
        ranges = [list(own) for own in self._reads(rows, len(members))]
        ranges[0].append((0, 1))  # the first row says what images are like
        self.staged.place(members, ranges)
        table = self.staged.table.spec()
        if self._spec is None:
            described = self.client.submit(
                _described, *self._about, table, workers=[members[0].address], allow_other_workers=True, pure=False
            )
            (self._spec,) = results_of([described])
        return {**self._spec, "table": table}

    def close(self) -> None:
        """Remove the files from the workers."""
        self.staged.close()


@dataclass
class RunInputs:
    """The rows of one run: the dataframes among its sources, by phase; and where files of rows lie."""

    given: dict[str, FrameInput] = field(default_factory=dict)
    locality: Locality = field(default_factory=Locality)

    def ready(self, job: Job, members: list[Member]) -> Job:
        """A group's job with the dataframes' rows brought to its members.

        Raises:
            GroupError: a member is lost meanwhile (``died``).
        """
        if "TRAIN" in self.given:
            job = replace(job, source=self.given["TRAIN"].spec(members))
        if "TEST" in self.given:
            job = replace(job, test_sources=[self.given["TEST"].spec(members)])
        return job

    def __enter__(self) -> RunInputs:
        return self

    def __exit__(self, *_: object) -> None:
        for given in self.given.values():
            given.close()


def _described(layer: str, phase: str, options: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """On the worker with the first row: the source's specification."""
    parsed = text_format.Parse(layer, caffe_pb2.LayerParameter())
    return frame_source(parsed, phase, None, options, staged=StagedTable.from_spec(table)).spec()


def as_dask(frame: Any, parts: int) -> Any:
    """A pandas frame as a dask one that keeps bytes and arrays; a dask one as it is.

    Raises:
        DataError: a column that Arrow cannot take, or no rows.
    """
    import dask.dataframe as dd

    if not isinstance(frame, pd.DataFrame):
        return frame
    if not len(frame):
        raise DataError("the dataframe has no rows, so there is nothing to read.", rows=0)
    typed = arrow_table(frame).to_pandas(types_mapper=pd.ArrowDtype)
    return dd.from_pandas(typed, npartitions=max(1, min(parts, len(typed))), sort=False)


# -- rows of one partition -------------------------------------------------------------------------------------------


def given_spec(
    client: Client, frame: Any, layer: caffe_pb2.LayerParameter, options: dict[str, Any], silence: float
) -> dict[str, Any]:
    """What :func:`given_source` needs to make a source of any partition of a dask dataframe.

    Layers that do not state the images' size take it from the first row, for which the dataframe is computed as far.

    Raises:
        GroupError: a worker that computes has sent no heartbeat for ``silence`` seconds, or none is left.
        DataError: no rows.
    """
    spec: dict[str, Any] = {
        "kind": GIVEN,
        "layer": text_format.MessageToString(layer, as_one_line=True),
        "options": options,
    }
    if layer.type in ("MemoryData", "CoSData"):
        return spec
    for part in frame.to_delayed():
        found = client.submit(_image_shape, spec, client.compute(part), pure=False)
        (shape,) = results_of_work(client, [found], silence)
        if shape is not None:
            return {**spec, "image_shape": shape}
    raise DataError("the dataframe has no rows, so the images' shape is unknown.", rows=0)


#: The kind of specification whose rows come with each call.
GIVEN = "given"


def given_source(spec: dict[str, Any], frame: pd.DataFrame | pa.Table | None = None) -> Any:
    """A source over the rows of one partition; without a frame, over none."""
    layer = text_format.Parse(spec["layer"], caffe_pb2.LayerParameter())
    if frame is None:
        names = [top.name for top in layer.cos_data_param.top] if layer.type == "CoSData" else ["label", "data"]
        frame = pa.table({name: pa.array([], pa.binary()) for name in dict.fromkeys(names)})
    source: Any = frame_source(layer, "TEST", None, spec["options"], frame=frame)
    if "image_shape" in spec:
        source.image_shape = tuple(spec["image_shape"])
    return source


def _image_shape(spec: dict[str, Any], frame: pd.DataFrame) -> list[int] | None:
    return list(given_source(spec, frame.iloc[:1]).image_shape) if len(frame) else None
