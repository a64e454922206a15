"""What a user may hand to the verbs as a source: a path, a Source, a pandas or dask dataframe."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd
from distributed import Client

from cosdask.config import Config
from cosdask.data import CosFrameSource, FrameSource, Source, is_data_layer, open_source
from cosdask.errors import ConfigError, DataError
from cosdask.parallel.counting import counted
from cosdask.parallel.waiting import results_of
from cosdask.proto import caffe_pb2, parse_solver
from cosdask.solver.nets import test_nets, train_net
from cosdask.storage import absolute

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
        "persistent": config.persistent,
        "on_bad_rows": config.on_bad_rows if config.on_bad_rows != "error" else None,
    }
    return {name: value for name, value in options.items() if value}


def source_spec(client: Client, source: Any, solver: str, phase: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """The specification of a source as ranks and tasks take it; None leaves it to the net.

    Args:
        client: its workers count the rows.
        source: None, a path or URL, a ``Source`` (dataframes: see :mod:`cosdask.parallel.frame_input`).
        solver: text of the self-contained solver, whose data layer says how rows become tops.
        phase: ``"TRAIN"`` or ``"TEST"``.
        options: see :func:`source_options`.

    Raises:
        ConfigError: for anything else.
        DataError: where the rows cannot be read.
    """
    if source is None:
        return None
    if isinstance(source, Source):
        return _with_options(source.spec(), options)
    if isinstance(source, str | os.PathLike):
        path = absolute(os.fspath(source))
        (spec,) = results_of([client.submit(_spec_of_path, solver, phase, path, options, pure=False)])
        return dict(spec)
    raise ConfigError(
        f"a source is a path, a cosdask Source, a pandas or a dask dataframe, not {type(source).__name__}."
    )


def dataframe_of(source: Any) -> Any:
    """The pandas or dask dataframe that a source is; None for sources of other kinds."""
    if isinstance(source, FrameSource | CosFrameSource) and source.in_memory:
        return source.table.table.to_pandas(types_mapper=pd.ArrowDtype)
    is_dask = all(hasattr(source, name) for name in ("to_delayed", "map_partitions", "dtypes"))
    return source if isinstance(source, pd.DataFrame) or is_dask else None


def _with_options(spec: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """A source's specification with the run's options, which count before the source's own."""
    if "sources" in spec:
        return {**spec, "sources": [_with_options(part, options) for part in spec["sources"]]}
    return {**spec, "options": {**spec["options"], **options}}


def data_layer(solver: str, phase: str) -> caffe_pb2.LayerParameter:
    """The data layer that says how rows become tops."""
    param = parse_solver(solver)
    named = train_net(param, None) if phase == "TRAIN" else test_nets(param, None)[0]
    for layer in named.layers():
        if is_data_layer(layer):
            return layer
    raise DataError(f"the net has no data layer in the phase {phase}, so it is not known how rows become its inputs.")


def _spec_of_path(solver: str, phase: str, path: str, options: dict[str, Any]) -> dict[str, Any]:
    layer = data_layer(solver, phase)
    getattr(layer, _BLOCKS[layer.type]).source = path
    return counted(open_source(layer, phase, options=options)).spec()
