"""Sources of users' own classes that give a pandas frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from cosdask.data.base import Source
from cosdask.data.frame_source import CosFrameSource, FrameSource
from cosdask.errors import ConfigError
from cosdask.proto import caffe_pb2

#: The users' classes by name.
USERS: dict[str, type] = {}


class _Registered:
    """Rows that a user's own class gives; each process asks the class anew."""

    layer: caffe_pb2.LayerParameter

    def __init__(
        self,
        layer: caffe_pb2.LayerParameter,
        phase: str = "TRAIN",
        base_dir: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        rest: dict[str, Any] = {"frame": _users_frame(layer, phase)}
        super().__init__(layer, phase, base_dir, options, **rest)  # type: ignore[call-arg]

    @property
    def place(self) -> str:
        """Where the rows come from, for messages."""
        return f"source_class {self.layer.source_class}"

    def _table_spec(self) -> dict[str, Any]:
        """The other process asks the class; it must have registered it too."""
        return {}

    @classmethod
    def _build(cls, layer: caffe_pb2.LayerParameter, spec: Mapping[str, Any]) -> Source:
        made: Any = cls(layer, spec["phase"], spec["base_dir"], spec["options"])
        source: Source = made
        return source


class RegisteredSource(_Registered, FrameSource):
    """For layers of images: ImageDataFrame's columns."""

    kind: ClassVar[str] = "registered"


class RegisteredCosSource(_Registered, CosFrameSource):
    """For CoSData layers: the tops' columns."""

    kind: ClassVar[str] = "registered_cos"


def _users_frame(layer: caffe_pb2.LayerParameter, phase: str) -> Any:
    """The frame of a user's class.

    Raises:
        ConfigError: this process does not know the class.
    """
    if layer.source_class not in USERS:
        raise ConfigError(f"source_class {layer.source_class} is not registered in this process")
    return USERS[layer.source_class](layer, phase).frame()
