"""A net over the rows of a dataframe, one column a blob, one cell a row; how a net travels to where the rows are."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cosdask.data import FrameSource, Segment, is_data_layer, take
from cosdask.errors import DataError, NetError, WeightsError, did_you_mean
from cosdask.nn.layer import Shape
from cosdask.nn.programs import check_blob
from cosdask.nn.user_code import dump_layers, is_user_code, load_layers
from cosdask.nn.weights import net_message, to_binary
from cosdask.proto import caffe_pb2, parse_binary
from cosdask.storage import describe_file

if TYPE_CHECKING:
    from cosdask.nn.net import Net

#: the type of a blob's column: Arrow keeps it as it is, where Dask turns object columns into text
CELL = pd.ArrowDtype(pa.list_(pa.float32()))


def rows_of_blob(name: str, array: np.ndarray, axis: int | None, fed: int, rows: int) -> np.ndarray:
    """A blob as a float32 matrix, a row a row of the batch; a blob without a batch axis is the same in every row.

    Args:
        name: of the blob, for the error.
        array: the blob.
        axis: its batch axis.
        fed: rows that were fed.
        rows: how many of them count.

    Raises:
        NetError: for a blob that has not one row for each that was fed.
    """
    if axis is None:
        return np.broadcast_to(np.ravel(array)[None, :], (rows, array.size))
    if array.shape[axis] != fed:
        raise NetError(
            f'blob "{name}" has {array.shape[axis]} rows for a batch of {fed}: it cannot be told row by row.'
        )
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
    place = net.programs.input_axis
    full = max((shape[place(name)] for name, shape in net.inputs.items() if name in inputs), default=rows)
    fed = rows
    if rows < full and all(axis is not None for axis in axes):
        fed = full
        inputs = {name: _filled(array, place(name), full) for name, array in inputs.items()}
    found = net.forward_anew(inputs, blobs)
    return [rows_of_blob(blob, found[blob], axis, fed, rows) for blob, axis in zip(blobs, axes, strict=True)]


def _filled(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    last = np.take(array, [-1], axis)
    return np.concatenate([array, np.repeat(last, size - array.shape[axis], axis)], axis)


def map_partition(net: Net, frame: pd.DataFrame, blobs: Sequence[str], column: str, transform: bool) -> pd.DataFrame:
    """The frame plus a column a blob: a 1-D float32 list a row. For ``ddf.map_partitions(net.map_partition, ...)``.

    Args:
        net: its weights are used; its data layer's transform applies.
        frame: rows with ``column``: encoded images, raw interleaved bytes (with columns ``channels``, ``height``,
            ``width``, or of the data layer's size), or arrays of floats in Caffe's layout, nested or flat.
        blobs: names of blobs.
        column: the column that is fed.
        transform: False feeds arrays as they are, without crop, mean and scale.

    Raises:
        NetError: for a blob that the net lacks, or whose rows are not the batch's.
        DataError: for a missing column or a row that cannot be read.
    """
    if isinstance(blobs, str):
        raise NetError(f'blobs="{blobs}": give a list of names, such as ["{blobs}"].')
    for blob in blobs:
        check_blob(blob, net.graph)
    if column not in frame.columns:
        near = did_you_mean(column, map(str, frame.columns))
        raise DataError(f'the frame has no column "{column}".{near}', column=column)
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
    shape = net.inputs[top]
    as_bytes = holds_bytes(frame[column])
    if not transform or (layer is None and not as_bytes):
        if as_bytes:
            raise DataError(
                f'column "{column}" holds bytes; only arrays can be fed with transform=False', column=column
            )
        for start in range(0, len(frame), max(1, shape[0])):
            part = frame[column].iloc[start : start + max(1, shape[0])]
            yield len(part), {top: _arrays(part, shape, start)}
        return
    layer = layer if layer is not None else _image_layer(top, shape)
    # a MemoryData layer states the size before the crop; for others it can only be that of the net
    stated = layer.memory_data_param
    flat = (stated.channels, stated.height, stated.width) if layer.type == "MemoryData" else shape[1:]
    source = FrameSource(layer, "TEST", net.folder, frame=image_table(frame, column, flat))
    for ids, raw in take(source, [Segment(0, 0, source.rows)], source.batch_size):
        yield len(ids), {top: np.asarray(source.finish(raw)[top])}


def holds_bytes(cells_: pd.Series) -> bool:
    """Whether the cells are bytes.

    Raises:
        DataError: for text, which Dask makes of bytes and arrays.
    """
    first = next((cell for cell in cells_ if cell is not None and cell is not pd.NA), None)
    if isinstance(first, str):
        raise DataError(
            f'column "{cells_.name}" holds text, beginning {first[:20]!r}: where it was bytes or arrays, Dask has '
            "turned them into text. Give the column an Arrow type, such as pd.ArrowDtype(pa.binary()), or set "
            'dask.config "dataframe.convert-string" to False',
            column=str(cells_.name),
        )
    return isinstance(first, bytes | bytearray | memoryview)


def _arrays(part: pd.Series, shape: Shape, start: int) -> np.ndarray:
    """Cells of numbers, nested or flat, as one batch; ``start`` is the first one's row."""
    arrays = []
    for row, cell in enumerate(part, start):
        try:
            array = np.asarray(cell, np.float32)
            arrays.append(array.reshape(shape[1:]))
        except (TypeError, ValueError) as error:
            raise DataError(
                f'row {row} of column "{part.name}" is no array of the {shape[1:]} numbers that the net takes: {error}',
                column=str(part.name),
                row=row,
            ) from error
    return np.stack(arrays)


def _feeding_layer(net: Net) -> tuple[caffe_pb2.LayerParameter | None, str]:
    """The data layer whose transform applies (None for nets with bare inputs), and the input that is fed."""
    for layer in net.layers:
        if is_data_layer(layer) and layer.top[0] in net.inputs:
            return layer, layer.top[0]
    if not net.inputs:
        raise NetError("the net has no inputs that a frame could feed.")
    return None, next(iter(net.inputs))


def _image_layer(top: str, shape: Shape) -> caffe_pb2.LayerParameter:
    """A data layer for images of a bare input's size, fed as they are."""
    if len(shape) != 4:
        raise NetError(
            f'input "{top}" has shape {shape}: bytes are decoded for image inputs (N, C, H, W) only; give arrays.'
        )
    layer = caffe_pb2.LayerParameter(name=top, type="MemoryData", top=[top, "label"])
    param = layer.memory_data_param
    param.batch_size, param.channels, param.height, param.width = shape
    return layer


def image_table(frame: pd.DataFrame, column: str, flat: Shape) -> pa.Table:
    """The fed column, and what says how to read it, with the names that sources know.

    ``flat`` is the size (C, H, W) of arrays that do not show theirs.
    """
    values = frame[column].tolist()
    known = {name: pa.array(frame[name].tolist()) for name in ("channels", "height", "width") if name in frame.columns}
    columns: dict[str, pa.Array] = {"label": pa.array(["0"] * len(values))}
    if holds_bytes(frame[column]):
        columns["data"] = pa.array(values, pa.binary())
        columns["encoded"] = _encoded(frame, values)
    else:
        floats = [_image_of_numbers(value, flat, row, column) for row, value in enumerate(values)]
        columns["data"] = pa.array([b""] * len(values), pa.binary())
        # sources keep what a row holds interleaved, as CaffeOnSpark's frames do
        interleaved = [value.transpose(1, 2, 0).ravel() for value in floats]
        columns["float_data"] = pa.array(interleaved, pa.list_(pa.float32()))
        sizes = np.array([value.shape for value in floats])
        known = {name: pa.array(sizes[:, i]) for i, name in enumerate(("channels", "height", "width"))}
    return pa.table({**columns, **known})


def _image_of_numbers(value: Any, flat: Shape, row: int, column: str) -> np.ndarray:
    """An array (C, H, W) of a cell."""
    try:
        array = np.asarray(value, np.float32)
        return array if array.ndim == 3 else array.reshape(flat)
    except (TypeError, ValueError) as error:
        raise DataError(
            f'row {row} of column "{column}" is no image (C, H, W), nor a flat one of {flat}: {error}',
            column=column,
            row=row,
        ) from error


_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")


def _encoded(frame: pd.DataFrame, values: list[bytes]) -> pa.Array:
    """Whether each row is an encoded image: as the frame says, else by how the bytes begin."""
    if "encoded" in frame.columns:
        return pa.array(frame["encoded"].tolist(), pa.bool_())
    return pa.array([bytes(value or b"")[:4].startswith(_IMAGE_STARTS) for value in values], pa.bool_())


# -- how a net travels -----------------------------------------------------------------------------------------------


def reduce_net(net: Net) -> tuple[Any, ...]:
    """A pickled net: its message, settings, and its weights' place and hash.

    Weights that were changed since they were loaded (or that came from no file) travel themselves, as a caffemodel.
    """
    weights: Any = net.weights_place
    if weights is None:
        weights = to_binary(net_message(net), net.to_blobs(net.params))
    code = dump_layers() if any(is_user_code(node.layer) for node in net.graph.nodes) else b""
    settings = (net.phase, net.level, net.stages, tuple(net.inputs.items()), net.seed, net.folder, net.precision, code)
    return restore_net, (net.to_message().SerializeToString(deterministic=True), settings, weights)


_kept: OrderedDict[Any, Net] = OrderedDict()
_kept_lock = threading.Lock()
_MOST_KEPT = 8


def restore_net(message: bytes, settings: Any, weights: Any) -> Net:
    """The net that :func:`reduce_net` took apart; what has been compiled for an equal one is used again.

    Raises:
        WeightsError: where the weights' file has changed since.
    """
    digest = weights[1] if isinstance(weights, tuple) else hashlib.sha256(weights).hexdigest()
    key = (message, settings, digest)
    # tasks of one worker unpickle the same net in several threads at once
    with _kept_lock:
        if key not in _kept:
            _kept[key] = _opened(message, settings, weights)
        _kept.move_to_end(key)
        while len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
        return _kept[key].copy()


def _opened(message: bytes, settings: Any, weights: Any) -> Net:
    from cosdask.nn.net import Net

    phase, level, stages, inputs, seed, folder, precision, code = settings
    load_layers(code)
    parsed = parse_binary(message, caffe_pb2.NetParameter())
    shapes = dict(inputs)
    net = Net(parsed, phase, level, stages, input_shapes=shapes, seed=seed, folder=folder, precision=precision)
    if not isinstance(weights, tuple):
        net.load_message(parse_binary(weights, caffe_pb2.NetParameter()))
        return net
    path, digest = weights
    found = hash_of(path)
    if found != digest:
        raise WeightsError(
            f"{path}: has changed since the net was made (SHA-256 {found[:12]} now, {digest[:12]} then).", path=path
        )
    net.load(path)
    return net


def hash_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file."""
    return describe_file(path)[1]
