"""Weights files: ``.caffemodel`` (binary protobuf) and ``.caffemodel.h5`` (HDF5), by layer name as in Caffe."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from cosdask.errors import CosdaskError, WeightsError
from cosdask.nn.graph import WeightRef, layer_keys
from cosdask.nn.layer import REGISTRY, Shape
from cosdask.proto import (
    array_to_blob,
    blob_to_array,
    caffe_pb2,
    insert_splits,
    read_binary,
    upgrade_net,
)
from cosdask.storage import atomic_write, read_bytes

if TYPE_CHECKING:
    import h5py

    from cosdask.nn.net import Net

Blobs = Mapping[str, Sequence[np.ndarray | None]]
Wanted = Mapping[str, Sequence[WeightRef]]
#: How many times as large as in its file a data set may be: no compression of HDF5's does better.
_MOST_PACKED = 1100


def load_weights(path: str, wanted: Wanted) -> Blobs:
    """The blobs of the layers that both the file and the net have.

    Args:
        path: a weights file; a name ending in ``.h5`` is read as HDF5.
        wanted: the weights of each of the net's layers.

    Returns:
        ``{layer: [float32 array of the wanted shape, or None where a shared weight lies only under its owner]}``.

    Raises:
        WeightsError: where a layer's blobs differ in number or shape.
        ProtoError, StorageError: where the file cannot be read.
    """
    return _load_hdf5(path, wanted) if path.endswith(".h5") else _load_binary(path, wanted)


def save_weights(path: str, net: Net, blobs: Blobs) -> None:
    """Write weights, whole or not at all; a name ending in ``.h5`` is written as HDF5."""
    message = net_message(net)
    atomic_write(path, _to_hdf5(message, net, blobs) if path.endswith(".h5") else to_binary(message, blobs))


def net_message(net: Net) -> caffe_pb2.NetParameter:
    """The net as Caffe stores it beside its weights: phase, loss weights and fixed sums stated, Split layers put in."""
    message = insert_splits(net.to_message())
    sums = {node.key: sum(not ref.weight.learnable for ref in node.weights) for node in net.graph.nodes}
    stored = caffe_pb2.NetParameter(name=message.name)
    for layer in message.layer:
        copy = stored.layer.add()
        copy.CopyFrom(layer)
        copy.ClearField("blobs")
        if not copy.HasField("phase"):
            copy.phase = caffe_pb2.TRAIN if net.phase == "TRAIN" else caffe_pb2.TEST
        cls = REGISTRY.get(copy.type)
        if cls is not None and cls.is_loss and not copy.loss_weight:
            copy.loss_weight.append(1.0)
        while len(copy.param) < sums.get(copy.name, 0):
            copy.param.add(lr_mult=0.0)
    return stored


def to_binary(message: caffe_pb2.NetParameter, blobs: Blobs) -> bytes:
    """A ``.caffemodel``'s bytes."""
    for key, layer in zip(layer_keys(message.layer), message.layer, strict=True):
        layer.blobs.extend(array_to_blob(array) for array in blobs.get(key, []) if array is not None)
    return message.SerializeToString(deterministic=True)


def _load_binary(path: str, wanted: Wanted) -> Blobs:
    return weights_of(upgrade_net(read_binary(path, caffe_pb2.NetParameter()), keep=False), wanted, path)


def weights_of(message: caffe_pb2.NetParameter, wanted: Wanted, path: str) -> Blobs:
    """The blobs of the layers that both a message and the net have; ``path`` names the message in errors."""
    if not message.layer:
        raise WeightsError(f"{path}: holds no layers; is it a caffemodel?", path=path)
    found: dict[str, list[np.ndarray | None]] = {}
    for layer in message.layer:
        refs = wanted.get(layer.name)
        if refs is None:
            continue
        _check_number(path, layer.name, len(layer.blobs), len(refs))
        found[layer.name] = [
            _fit(path, layer.name, position, blob_to_array(blob), ref.weight.shape, legacy=not blob.HasField("shape"))
            for position, (blob, ref) in enumerate(zip(layer.blobs, refs, strict=True))
        ]
    return found


def _load_hdf5(path: str, wanted: Wanted) -> Blobs:
    import h5py  # loaded by those who read or write HDF5 only

    with open_hdf5(path) as file:
        data = file.get("data")
        if not isinstance(data, h5py.Group):
            raise WeightsError(f'{path}: has no group "data"; is it a caffemodel in HDF5?', path=path)
        found: dict[str, list[np.ndarray | None]] = {}
        for name, group in data.items():
            refs = wanted.get(name)
            if refs is None:
                continue
            if not isinstance(group, h5py.Group):
                raise WeightsError(f'{path}: layer "{name}" is no group of weights.', path=path, layer=name)
            # Caffe writes a shared weight under its owner only
            absent = [str(i) not in group and ref.owner != name for i, ref in enumerate(refs)]
            _check_number(path, name, len(group) + sum(absent), len(refs))
            found[name] = [
                None if gone else _fit(path, name, i, read_numbers(path, group, str(i)), ref.weight.shape)
                for i, (ref, gone) in enumerate(zip(refs, absent, strict=True))
            ]
        return found


@contextmanager
def open_hdf5(path: str) -> Iterator[h5py.File]:
    """An HDF5 file at a path or URL, open for reading; what is damaged in it is an error that names it.

    Raises:
        WeightsError: for a file that is no HDF5, or is damaged.
    """
    import h5py

    content = read_bytes(path)
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            yield file
    except CosdaskError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: is no HDF5 file, or a damaged one ({error}).", path=path) from error


def read_numbers(path: str, group: h5py.Group, name: str) -> np.ndarray:
    """A data set of numbers; no memory is taken for more than the file can hold.

    Raises:
        WeightsError: there is none of this name, or it claims more than it holds.
    """
    import h5py

    found = group.get(name)
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiub":
        raise WeightsError(f'{path}: {group.name} has no numbers "{name}"; it holds {", ".join(group)}.', path=path)
    if found.nbytes > _MOST_PACKED * found.id.get_storage_size():
        raise WeightsError(f"{path}: {found.name} claims shape {found.shape}, of which the file holds less.", path=path)
    numbers: np.ndarray = found[()]
    return numbers


def _to_hdf5(message: caffe_pb2.NetParameter, net: Net, blobs: Blobs) -> bytes:
    import h5py

    buffer = io.BytesIO()
    owners = {node.key: [ref.owner == node.key for ref in node.weights] for node in net.graph.nodes}
    with h5py.File(buffer, "w") as file:
        data = file.create_group("data")
        for layer in message.layer:
            if layer.name in data:
                raise WeightsError(
                    f'layer name "{layer.name}" is used twice, which HDF5 cannot hold; rename one, or save as binary.',
                    layer=layer.name,
                )
            group = data.create_group(layer.name)
            for position, array in enumerate(blobs.get(layer.name, [])):
                if owners[layer.name][position]:
                    group.create_dataset(str(position), data=array)
    return buffer.getvalue()


def _check_number(path: str, layer: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise WeightsError(
            f'{path}: layer "{layer}" has {found} weight blob(s), the net\'s has {wanted}.', path=path, layer=layer
        )


def _fit(path: str, layer: str, position: int, array: np.ndarray, shape: Shape, legacy: bool = False) -> np.ndarray:
    """The array in the net's shape; a legacy 4-D blob fits where only leading ones differ."""
    padded = (1,) * (4 - len(shape)) + tuple(shape)
    if tuple(array.shape) != tuple(shape) and not (legacy and tuple(array.shape) == padded):
        raise WeightsError(
            f'{path}: layer "{layer}", weight {position}: shape {tuple(array.shape)} in the file, {tuple(shape)} in '
            "the net. To train this layer from scratch, give it another name in the prototxt.",
            path=path,
            layer=layer,
        )
    return array.reshape(shape).astype(np.float32, copy=False)
