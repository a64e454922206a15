"""Which class reads a data layer: by layer type, database backend, or ``source_class``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from cosdask.data.base import Source
from cosdask.data.dataframe import ParquetSource
from cosdask.data.frame_source import FrameSource
from cosdask.data.hdf5 import Hdf5Source
from cosdask.data.lmdb import LmdbSource
from cosdask.data.sequence import SequenceSource
from cosdask.errors import ConfigError, DataError, did_you_mean
from cosdask.proto import caffe_pb2

#: The Java package whose class names CaffeOnSpark's prototxt files carry.
_JAVA = "com.yahoo.ml.caffe."
_NOT_YET = ("DataFrameSource",)
_LAYERS_NOT_YET = ("ImageData", "WindowData")

Opener = Callable[[caffe_pb2.LayerParameter, str, str | None, dict[str, Any]], Source]
_CLASSES: dict[str, Opener] = {
    "LMDB": LmdbSource,
    "ImageDataFrame": ParquetSource,
    "SeqImageDataSource": SequenceSource,
}

_USERS: dict[str, type] = {}

#: Layer types that read rows from outside.
DATA_LAYERS = ("Data", "MemoryData", "CoSData", "HDF5Data", *_LAYERS_NOT_YET)


class RegisteredSource(FrameSource):
    """The rows that a user's own class gives as a pandas frame; each process asks the class anew."""

    kind: ClassVar[str] = "registered"

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        phase: str = "TRAIN",
        base_dir: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        rows = _USERS[layer.source_class](layer, phase)
        super().__init__(layer, phase, base_dir, options, frame=rows.frame())

    @property
    def place(self) -> str:
        """Where the rows come from, for messages."""
        return f"source_class {self.layer.source_class}"

    def spec(self) -> dict[str, Any]:
        """See :meth:`Source.spec`; the other process must have registered the class too."""
        return super(FrameSource, self).spec()

    @classmethod
    def _build(cls, layer: caffe_pb2.LayerParameter, spec: Mapping[str, Any]) -> Source:
        if layer.source_class not in _USERS:
            raise ConfigError(f"source_class {layer.source_class} is not registered in this process")
        return cls(layer, spec["phase"], spec["base_dir"], spec["options"])


T = TypeVar("T", bound=type[Any])


def register_source(name: str) -> Callable[[T], T]:
    """A class decorator: ``source_class: "<name>"`` in a prototxt means this class.

    The class is either a :class:`Source`, or one made as ``cls(layer, phase)`` whose method ``frame()`` gives a pandas
    frame with the columns of ImageDataFrame (``label`` and ``data``; ``id``, ``channels``, ``height``, ``width`` and
    ``encoded`` where they are not the layer's).

    Raises:
        ConfigError: the name is one of cosdask's own, or the class is of neither kind.
    """

    def register(cls: T) -> T:
        if name.removeprefix(_JAVA) in ("LMDB", "ImageDataFrame", "SeqImageDataSource", *_NOT_YET):
            raise ConfigError(f'register_source("{name}"): this name is one of cosdask\'s own')
        if issubclass(cls, Source):
            _CLASSES[name] = cls
            Source._kinds.setdefault(cls.kind or name, cls)
            cls.kind = cls.kind or name
        elif callable(getattr(cls, "frame", None)):
            _CLASSES[name] = RegisteredSource
        else:
            raise ConfigError(f'register_source("{name}"): {cls.__name__} is no Source and has no method frame()')
        _USERS[name] = cls
        return cls

    return register


def registered_sources() -> dict[str, type]:
    """The user's own source classes by name."""
    return dict(_USERS)


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
    if layer.type == "HDF5Data":
        return Hdf5Source
    if layer.type == "Data":
        if layer.data_param.backend == caffe_pb2.DataParameter.LEVELDB:
            raise DataError(
                f"{where}: LevelDB cannot be read yet (it will come as an optional extra); convert it to an LMDB and "
                "state backend: LMDB (LEVELDB is Caffe's default when backend is not stated)",
                layer=layer.name,
            )
        return LmdbSource
    if layer.type in _LAYERS_NOT_YET:
        raise DataError(f"{where}: layers of type {layer.type} cannot be read yet", layer=layer.name)
    if layer.type not in ("MemoryData", "CoSData"):
        raise DataError(f"{where}: {layer.type} is no data layer; those are {', '.join(DATA_LAYERS)}", layer=layer.name)
    return _by_class(layer, where)


def _by_class(layer: caffe_pb2.LayerParameter, where: str) -> Opener:
    name = layer.source_class
    short = name.removeprefix(_JAVA)
    known = [*_CLASSES, *_NOT_YET]
    if not name:
        raise ConfigError(
            f"{where}: a {layer.type} layer says what it reads with source_class: one of {', '.join(known)}",
            layer=layer.name,
        )
    if short in _NOT_YET:
        raise DataError(f"{where}: source_class {name} cannot be read yet", layer=layer.name)
    opener = _CLASSES.get(name) or _CLASSES.get(short)
    if opener is None:
        raise ConfigError(
            f"{where}: source_class {name!r} is not known.{did_you_mean(short, known)} A class of your own is "
            "made known with cosdask.register_source",
            layer=layer.name,
        )
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
