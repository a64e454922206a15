"""Which class reads a data layer: by layer type, database backend, or ``source_class``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cosdask.data.base import Source
from cosdask.data.cos import CosSource
from cosdask.data.dataframe import DataFrameImages
from cosdask.data.hdf5 import Hdf5Source
from cosdask.data.image_list import ImageListSource
from cosdask.data.leveldb import LevelDbSource
from cosdask.data.lmdb import LmdbSource
from cosdask.data.registered import USERS, RegisteredCosSource, RegisteredSource
from cosdask.data.sequence import SequenceSource
from cosdask.data.user_modules import allowed_sources, source_class_at
from cosdask.data.windows import WindowSource
from cosdask.errors import ConfigError, DataError, did_you_mean
from cosdask.proto import caffe_pb2

#: The Java package whose class names CaffeOnSpark's prototxt files carry.
_JAVA = "com.yahoo.ml.caffe."

Opener = Callable[[caffe_pb2.LayerParameter, str, str | None, dict[str, Any]], Source]
_CLASSES: dict[str, Opener] = {
    "LMDB": LmdbSource,
    "ImageDataFrame": DataFrameImages,
    "DataFrameSource": CosSource,
    "SeqImageDataSource": SequenceSource,
}
#: Names that users' classes cannot take, and the layer type that each of cosdask's own classes goes with.
_OWN = {
    "LMDB": "MemoryData",
    "SeqImageDataSource": "MemoryData",
    "ImageDataFrame": "MemoryData",
    "DataFrameSource": "CoSData",
}

_BY_TYPE: dict[str, Opener] = {"HDF5Data": Hdf5Source, "ImageData": ImageListSource, "WindowData": WindowSource}
#: Layer types that read rows from outside.
DATA_LAYERS = ("Data", "MemoryData", "CoSData", "HDF5Data", "ImageData", "WindowData")


T = TypeVar("T", bound=type[Any])


def register_source(name: str) -> Callable[[T], T]:
    """A class decorator: ``source_class: "<name>"`` in a prototxt means this class.

    The class is either a :class:`Source`, or one made as ``cls(layer, phase)`` whose method ``frame()`` gives a pandas
    frame: for a MemoryData layer with the columns of ImageDataFrame (``label`` and ``data``; ``id``, ``channels``,
    ``height``, ``width`` and ``encoded`` where they are not the layer's), for a CoSData layer with those of its tops.

    Raises:
        ConfigError: the name is one of cosdask's own, or the class is of neither kind.
    """

    def register(cls: T) -> T:
        if name.removeprefix(_JAVA) in _OWN:
            raise ConfigError(f'register_source("{name}"): this name is one of cosdask\'s own')
        if issubclass(cls, Source):
            _CLASSES[name] = cls
            Source._kinds.setdefault(cls.kind or name, cls)
            cls.kind = cls.kind or name
        elif callable(getattr(cls, "frame", None)):
            _CLASSES[name] = RegisteredSource
        else:
            raise ConfigError(f'register_source("{name}"): {cls.__name__} is no Source and has no method frame()')
        USERS[name] = cls
        return cls

    return register


def registered_sources() -> dict[str, type]:
    """The user's own source classes by name, those of modules that the user allowed among them."""
    return {**allowed_sources(), **USERS}


def is_data_layer(layer: caffe_pb2.LayerParameter) -> bool:
    """Whether a layer reads rows that a :class:`Source` gives."""
    return layer.type in DATA_LAYERS and not layer.bottom


def open_source(
    layer: caffe_pb2.LayerParameter,
    phase: str = "TRAIN",
    base_dir: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Source:
    """The source that a data layer describes.

    Args:
        layer: a layer of one of :data:`DATA_LAYERS`.
        phase: ``"TRAIN"`` or ``"TEST"``.
        base_dir: folder of the prototxt, for relative names.
        options: see :class:`Source`.

    Raises:
        DataError: the layer is no data layer, or of a kind that is not built yet.
        ConfigError: an unknown ``source_class``, or settings that cannot work.
    """
    opener = _opener(layer)
    return opener(layer, phase, None if base_dir is None else os.fspath(base_dir), dict(options or {}))


def _opener(layer: caffe_pb2.LayerParameter) -> Opener:
    where = f'data layer "{layer.name}"'
    if layer.type in _BY_TYPE:
        return _BY_TYPE[layer.type]
    if layer.type == "Data":
        return LevelDbSource if layer.data_param.backend == caffe_pb2.DataParameter.LEVELDB else LmdbSource
    if layer.type not in ("MemoryData", "CoSData"):
        raise DataError(f"{where}: {layer.type} is no data layer; those are {', '.join(DATA_LAYERS)}", layer=layer.name)
    return _by_class(layer, where)


def _by_class(layer: caffe_pb2.LayerParameter, where: str) -> Opener:
    name = layer.source_class
    short = name.removeprefix(_JAVA)
    known = list(_CLASSES)
    if not name:
        raise ConfigError(
            f"{where}: a {layer.type} layer says what it reads with source_class: one of {', '.join(known)}",
            layer=layer.name,
        )
    opener = _CLASSES.get(name) or _CLASSES.get(short)
    if opener is None and (own := source_class_at(name, where)) is not None:
        register_source(name)(own)
        opener = _CLASSES[name]
    if opener is None:
        raise ConfigError(
            f"{where}: source_class {name!r} is not known.{did_you_mean(short, known)} A class of your own is "
            "made known with cosdask.register_source, or its module allowed with Config(allow_modules=[...]) or "
            "--allow-modules",
            layer=layer.name,
        )
    if _OWN.get(short, layer.type) != layer.type:
        raise ConfigError(
            f"{where}: source_class {name} goes with layers of type {_OWN[short]}, not {layer.type}", layer=layer.name
        )
    if opener is RegisteredSource and layer.type == "CoSData":
        return RegisteredCosSource
    return opener


def layer_top_shapes(
    layer: caffe_pb2.LayerParameter,
    phase: str = "TRAIN",
    base_dir: str | os.PathLike[str] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Caffe's shape of each top of a data layer, batch included; looks at the first row where the layer does not say.

    Raises:
        DataError, StorageError: the data cannot be read.
        ConfigError: settings that cannot work.
    """
    if layer.type == "MemoryData" and not layer.source_class:
        return _memory_shapes(layer)
    return open_source(layer, phase, base_dir).tops


def _memory_shapes(layer: caffe_pb2.LayerParameter) -> dict[str, tuple[int, ...]]:
    """Shapes of a MemoryData layer that is fed by hand, as pycaffe users do."""
    param = layer.memory_data_param
    size = (int(param.channels), int(param.height), int(param.width))
    if min(*size, param.batch_size) < 1:
        raise ConfigError(
            f'data layer "{layer.name}": memory_data_param needs batch_size, channels, height and width',
            layer=layer.name,
        )
    crop = int(layer.transform_param.crop_size)
    image = (size[0], crop, crop) if crop else size
    shapes = [(int(param.batch_size), *image), (int(param.batch_size), 1, 1, 1)]
    return dict(zip(layer.top, shapes, strict=False))
