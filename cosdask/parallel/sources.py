"""What a user may hand to the verbs as a source: a path, a Source, a pandas or dask dataframe."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from distributed import Client

from cosdask.config import Config
from cosdask.data import CosFrameSource, FrameSource, Source, arrow_table, frame_source, is_data_layer, open_source
from cosdask.errors import ConfigError, DataError
from cosdask.parallel.counting import counted
from cosdask.parallel.group import results_of
from cosdask.parallel.prepare import absolute
from cosdask.proto import caffe_pb2, parse_solver
from cosdask.solver.nets import test_nets, train_net

#: folders of rows that this process has staged; removed when it ends
_STAGED: list[tempfile.TemporaryDirectory[str]] = []
#: the parameter block in which each type of data layer names its source
_BLOCKS = {
    "Data": "data_param",
    "MemoryData": "memory_data_param",
    "CoSData": "cos_data_param",
    "HDF5Data": "hdf5_data_param",
    "ImageData": "image_data_param",
    "WindowData": "window_data_param",
}


def source_options(config: Config) -> dict[str, Any]:
    """The options of a run that sources know."""
    options = {
        "resize": config.resize,
        "partitions": config.lmdb_partitions,
        "shuffle": config.shuffle,
        "on_bad_rows": config.on_bad_rows if config.on_bad_rows != "error" else None,
    }
    return {name: value for name, value in options.items() if value}


def source_spec(client: Client, source: Any, solver: str, phase: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """The specification of a source as ranks and tasks take it; None leaves it to the net.

    Args:
        client: its workers count the rows.
        source: None, a path or URL, a ``Source``, a pandas or a dask dataframe.
        solver: text of the self-contained solver, whose data layer says how rows become tops.
        phase: ``"TRAIN"`` or ``"TEST"``.
        options: see :func:`source_options`.

    Raises:
        ConfigError: for anything else.
        DataError: where the rows cannot be read.
    """
    if source is None:
        return None
    if isinstance(source, FrameSource | CosFrameSource) and source.in_memory:
        source = source.table.table.to_pandas(types_mapper=pd.ArrowDtype)
    if isinstance(source, Source):
        return _with_options(source.spec(), options)
    if isinstance(source, str | os.PathLike):
        path = absolute(os.fspath(source))
        (spec,) = results_of([client.submit(_spec_of_path, solver, phase, path, options, pure=False)])
        return dict(spec)
    if isinstance(source, pd.DataFrame):
        return _staged(client, [source], solver, phase, options)
    if hasattr(source, "to_delayed"):
        return _staged(client, source, solver, phase, options)
    raise ConfigError(
        f"a source is a path, a cosdask Source, a pandas or a dask dataframe, not {type(source).__name__}."
    )


def _with_options(spec: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """A source's specification with the run's options, which count before the source's own."""
    if "sources" in spec:
        return {**spec, "sources": [_with_options(part, options) for part in spec["sources"]]}
    return {**spec, "options": {**spec["options"], **options}}


def _data_layer(solver: str, phase: str) -> caffe_pb2.LayerParameter:
    """The data layer that says how rows become tops."""
    param = parse_solver(solver)
    named = train_net(param, None) if phase == "TRAIN" else test_nets(param, None)[0]
    for layer in named.layers():
        if is_data_layer(layer):
            return layer
    raise DataError(f"the net has no data layer in the phase {phase}, so it is not known how rows become its inputs.")


def _spec_of_path(solver: str, phase: str, path: str, options: dict[str, Any]) -> dict[str, Any]:
    layer = _data_layer(solver, phase)
    getattr(layer, _BLOCKS[layer.type]).source = path
    return counted(open_source(layer, phase, options=options)).spec()


def _staged(client: Client, frame: Any, solver: str, phase: str, options: dict[str, Any]) -> dict[str, Any]:
    """Write the partitions of a dataframe as Arrow files, each by the worker that holds it.

    They lie in a folder of this machine until the client's process ends: a lazy frame of features may still want them.
    """
    _STAGED.append(tempfile.TemporaryDirectory(prefix="cosdask-rows-"))
    folder = _STAGED[-1].name
    if isinstance(frame, list):
        files = [_write_partition(part, str(Path(folder) / f"{i:05d}.arrow")) for i, part in enumerate(frame)]
    else:
        futures = [
            client.submit(_write_partition, client.compute(part), str(Path(folder) / f"{i:05d}.arrow"), pure=False)
            for i, part in enumerate(frame.to_delayed())
        ]
        files = results_of(futures)
    layer = _data_layer(solver, phase)
    return frame_source(layer, phase, options=options, files=[name for name in files if name]).spec()


def _write_partition(frame: pd.DataFrame, path: str) -> str:
    """Write one partition as an Arrow file of a few thousand rows a batch; returns "" where it is empty."""
    if not len(frame):
        return ""
    table = arrow_table(frame)
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4096)
    return path
