"""A net over the rows of a dataframe: one column a blob, one cell a row; and how a net travels to where the rows are."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cosdask.data import FrameSource, Segment, is_data_layer, take
from cosdask.errors import DataError, NetError, WeightsError, did_you_mean
from cosdask.nn.graph import GraphBuilder, needed_layers
from cosdask.nn.layer import Shape
from cosdask.proto import caffe_pb2, parse_binary
from cosdask.storage import read_bytes

if TYPE_CHECKING:
    from cosdask.nn.net import Net

#: the type of a blob's column: Arrow keeps it as it is, where Dask turns object columns into text
CELL = pd.ArrowDtype(pa.list_(pa.float32()))


def batch_axis(net: Net, blob: str) -> int | None:
    """The axis of a blob that grows with the batch: found by building the net for one row more."""
    more = {name: _one_more(shape, _input_axis(net, name)) for name, shape in net.inputs.items()}
    before = net.blob_shapes[blob]
    try:
        chosen = needed_layers(net.layers, [blob])
        after = GraphBuilder(net.layers, net.phase, more).build(chosen).blob_shapes[blob]
    except NetError:
        # inputs that do not grow together (a net for one fixed size): the usual place of the batch
        first = next(iter(net.inputs.values()), ())
        return 0 if before and first and before[0] == first[0] else None
    grown = [axis for axis, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    return grown[0] if grown else None


def _input_axis(net: Net, name: str) -> int:
    """Where an input has its batch: axis 1 for time-major tops of CoSData, else axis 0."""
    for layer in net.layers:
        if layer.type == "CoSData" and name in layer.top:
            return int(layer.cos_data_param.top[list(layer.top).index(name)].transpose)
    return 0


def _one_more(shape: Shape, axis: int) -> Shape:
    return tuple(size + (position == axis) for position, size in enumerate(shape))


def rows_of_blob(array: np.ndarray, axis: int | None, rows: int) -> np.ndarray:
    """A blob as a float32 matrix, a row a row of the batch; a blob without a batch axis is the same in every row."""
    if axis is None:
        return np.broadcast_to(np.ravel(array)[None, :], (rows, array.size))
    return np.moveaxis(array, axis, 0)[:rows].reshape(rows, -1)


def cells(matrix: np.ndarray) -> pa.Array:
    """A matrix as an Arrow array of lists, a list a row."""
    flat = pa.array(np.ascontiguousarray(matrix, np.float32).ravel())
    offsets = np.arange(0, matrix.size + 1, max(1, matrix.shape[1]), dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def forward_rows(net: Net, inputs: Mapping[str, np.ndarray], blobs: Sequence[str], rows: int) -> list[np.ndarray]:
    """Blobs for a batch as matrices of ``rows`` rows.

    A short batch is filled up with copies of its last row where every blob keeps its rows apart, so that it needs no
    compilation of its own.
    """
    axes = [net.batch_axis(blob) for blob in blobs]
    full = max((shape[_input_axis(net, name)] for name, shape in net.inputs.items()), default=rows)
    if rows < full and all(axis is not None for axis in axes):
        inputs = {name: _filled(array, _input_axis(net, name), full) for name, array in inputs.items()}
    found = net.forward(inputs, blobs)
    return [rows_of_blob(found[blob], axis, rows) for blob, axis in zip(blobs, axes, strict=True)]


def _filled(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    last = np.take(array, [-1], axis)
    return np.concatenate([array, np.repeat(last, size - array.shape[axis], axis)], axis)


def map_partition(net: Net, frame: pd.DataFrame, blobs: Sequence[str], column: str, transform: bool) -> pd.DataFrame:
    """The frame plus a column a blob: a 1-D float32 list a row. For ``ddf.map_partitions(net.map_partition, ...)``.

    Args:
        net: its weights are used; its data layer's transform applies.
        frame: rows with ``column``: encoded images, raw interleaved bytes (with columns ``channels``, ``height``,
            ``width``, or of the data layer's size), or arrays of floats in Caffe's layout.
        blobs: names of blobs.
        column: the column that is fed.
        transform: False feeds arrays as they are, without crop, mean and scale.

    Raises:
        NetError: for a blob that the net lacks.
        DataError: for a missing column or a row that cannot be read.
    """
    for blob in blobs:
        if blob not in net.blob_shapes:
            raise NetError(f'the net makes no blob "{blob}".{did_you_mean(blob, net.blob_shapes)}')
    if column not in frame.columns:
        raise DataError(f'the frame has no column "{column}".{did_you_mean(column, map(str, frame.columns))}', column=column)
    if not len(frame):
        return meta(frame, blobs)
    parts: list[list[np.ndarray]] = []
    for rows, inputs in _frame_batches(net, frame, column, transform):
        parts.append(forward_rows(net, inputs, blobs, rows))
    result = frame.copy()
    for position, blob in enumerate(blobs):
        matrix = np.concatenate([part[position] for part in parts])
        result[blob] = pd.Series(pd.arrays.ArrowExtensionArray(cells(matrix)), index=frame.index)
    return result


def meta(frame: Any, blobs: Sequence[str]) -> pd.DataFrame:
    """The empty frame that goes with :func:`map_partition`, from a pandas or dask frame."""
    empty: pd.DataFrame = getattr(frame, "_meta", frame).iloc[:0].copy()
    for blob in blobs:
        empty[blob] = pd.Series([], dtype=CELL, index=empty.index)
    return empty


def _frame_batches(
    net: Net, frame: pd.DataFrame, column: str, transform: bool
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Batches of the net's size: the number of rows, and the inputs."""
    layer, top = _feeding_layer(net)
    if not transform:
        shape = net.inputs[top]
        for start in range(0, len(frame), shape[0]):
            part = frame[column].iloc[start : start + shape[0]]
            arrays = [np.asarray(cell, np.float32).reshape(shape[1:]) for cell in part]
            yield len(part), {top: np.stack(arrays)}
        return
    source = FrameSource(layer, "TEST", net.folder, frame=_standard(frame, column, net.inputs[top]))
    for ids, raw in take(source, [Segment(0, 0, source.rows)], source.batch_size):
        yield len(ids), {top: np.asarray(source.finish(raw)[top])}


def _feeding_layer(net: Net) -> tuple[caffe_pb2.LayerParameter, str]:
    """The data layer whose transform applies and its first top; made up for nets with bare inputs."""
    for layer in net.layers:
        if is_data_layer(layer) and layer.top[0] in net.inputs:
            copy = caffe_pb2.LayerParameter()
            copy.CopyFrom(layer)
            return copy, layer.top[0]
    if not net.inputs:
        raise NetError("the net has no inputs that a frame could feed.")
    top, shape = next(iter(net.inputs.items()))
    if len(shape) != 4:
        raise NetError(
            f'input "{top}" has shape {shape}: only image inputs (N, C, H, W) are decoded; pass transform=False.'
        )
    layer = caffe_pb2.LayerParameter(name=top, type="MemoryData", top=[top, "label"])
    param = layer.memory_data_param
    param.batch_size, param.channels, param.height, param.width = shape
    return layer, top


def _standard(frame: pd.DataFrame, column: str, shape: Shape) -> pa.Table:
    """The fed column, and what says how to read it, with the names that sources know."""
    values = frame[column].tolist()
    first = next((value for value in values if value is not None), None)
    known = {name: pa.array(frame[name].tolist()) for name in ("channels", "height", "width") if name in frame.columns}
    columns: dict[str, pa.Array] = {"label": pa.array(["0"] * len(values))}
    if isinstance(first, bytes | bytearray | memoryview):
        columns["data"] = pa.array(values, pa.binary())
        columns["encoded"] = _encoded(frame, values)
    else:
        floats = [np.asarray(value, np.float32) for value in values]
        columns["data"] = pa.array([b""] * len(values), pa.binary())
        columns["float_data"] = pa.array([value.ravel() for value in floats], pa.list_(pa.float32()))
        sizes = np.array([value.shape if value.ndim == 3 else shape[1:] for value in floats])
        known = known or {name: pa.array(sizes[:, i]) for i, name in enumerate(("channels", "height", "width"))}
    return pa.table({**columns, **known})


_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")


def _encoded(frame: pd.DataFrame, values: list[bytes]) -> pa.Array:
    """Whether each row is an encoded image: as the frame says, else by how the bytes begin."""
    if "encoded" in frame.columns:
        return pa.array(frame["encoded"].tolist(), pa.bool_())
    return pa.array([bytes(value[:4]).startswith(_IMAGE_STARTS) for value in values], pa.bool_())


# -- how a net travels -----------------------------------------------------------------------------------------------


def reduce_net(net: Net) -> tuple[Any, ...]:
    """A pickled net: its message, settings, and its weights' place and hash.

    Weights that were changed since they were loaded (or that came from no file) travel themselves, as a caffemodel.
    """
    place = net.weights_place
    if place is None:
        from cosdask.nn.weights import net_message, to_binary

        weights: Any = to_binary(net_message(net), net.to_blobs(net.params))
    else:
        weights = place
    settings = (net.phase, net.level, net.stages, dict(net.inputs), net.seed, net.folder)
    return _restore_net, (net.to_message().SerializeToString(deterministic=True), settings, weights)


@functools.lru_cache(maxsize=8)
def _net_at(message: bytes, settings: Any, path: str, digest: str) -> Net:
    """A net with weights from a file, one a process: it is compiled once."""
    found = hash_of(path)
    if found != digest:
        raise WeightsError(f"{path}: has changed since the net was made (SHA-256 {found[:12]} now, {digest[:12]} then).", path=path)
    net = _bare_net(message, settings)
    net.load(path)
    return net


def hash_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _restore_net(message: bytes, settings: Any, weights: Any) -> Net:
    if isinstance(weights, tuple):
        phase, level, stages, inputs, seed, folder = settings
        hashable = (phase, level, stages, tuple(sorted(inputs.items())), seed, folder)
        return _net_at(message, hashable, *weights)
    net = _bare_net(message, settings)
    net.load_message(parse_binary(weights, caffe_pb2.NetParameter()))
    return net


def _bare_net(message: bytes, settings: Any) -> Net:
    from cosdask.nn.net import Net

    phase, level, stages, inputs, seed, folder = settings
    parsed = parse_binary(message, caffe_pb2.NetParameter())
    return Net(parsed, phase, level=level, stages=stages, input_shapes=dict(inputs), seed=seed, folder=folder)
