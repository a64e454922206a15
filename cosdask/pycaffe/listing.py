"""How pycaffe lists a net: its layers as objects, its blobs by number."""

from __future__ import annotations

from collections import OrderedDict

from cosdask.nn import Net as PureNet
from cosdask.proto import caffe_pb2
from cosdask.pycaffe.blob import Blob


class LayerView:
    """A layer of a net as ``net.layers`` lists it.

    Attributes:
        name: of the layer.
        type: its type, such as ``"Convolution"``.
        blobs: its weights.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, blobs: list[Blob]) -> None:
        self.name, self.type, self.blobs = param.name, param.type, blobs

    def __repr__(self) -> str:
        return f'<layer "{self.name}" ({self.type})>'


class Numbered:
    """The names with which pycaffe's own Python code, and some scripts, reach blobs by number."""

    _net: PureNet
    blobs: OrderedDict[str, Blob]
    inputs: list[str]
    outputs: list[str]

    @property
    def _blob_names(self) -> list[str]:
        return list(self.blobs)

    @property
    def _blobs(self) -> list[Blob]:
        return list(self.blobs.values())

    @property
    def _inputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.inputs]

    @property
    def _outputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.outputs]

    def _top_ids(self, layer: int) -> list[int]:
        return [self._blob_names.index(name) for name in self._net.layers[layer].top]

    def _bottom_ids(self, layer: int) -> list[int]:
        return [self._blob_names.index(name) for name in self._net.layers[layer].bottom]


__all__ = ["LayerView", "Numbered"]
