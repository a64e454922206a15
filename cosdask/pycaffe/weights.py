"""The weights of pycaffe's nets: each kept once, listed by layer, loaded, stored and shared."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable

from cosdask.errors import WeightsError
from cosdask.nn import Net as PureNet
from cosdask.nn.execute import Params
from cosdask.pycaffe.blob import Blob


class Weights:
    """The weights of one net.

    Args:
        net: the net beneath.
        seed: of the fillers.

    Attributes:
        owned: each weight once, by its key in the net beneath.
        by_layer: the weights of each layer in Caffe's order; a shared one is listed under every sharer.
    """

    def __init__(self, net: PureNet, seed: int) -> None:
        self._net = net
        self.owned: dict[str, Blob] = {
            key: Blob(ref.weight.shape, ref.weight.axes) for key, ref in net.graph.owned.items()
        }
        self.take(net.init(seed))
        self.by_layer: OrderedDict[str, list[Blob]] = OrderedDict(
            (node.key, [self.owned[ref.key].shared_as(ref.weight.shape) for ref in node.weights])
            for node in net.graph.nodes
            if node.weights
        )

    @property
    def net(self) -> PureNet:
        """The net beneath, with the current weights."""
        self._net.params = self.current(self.owned)
        return self._net

    def current(self, keys: Iterable[str]) -> Params:
        """Weights on the device, what was written to them included."""
        return {key: self.owned[key].values.device() for key in keys}

    def take(self, params: Params) -> None:
        """Put new numbers into all weights."""
        for key, blob in self.owned.items():
            blob.put(params[key])

    def load(self, paths: str | os.PathLike[str]) -> None:
        """Copy weights by layer name from a file, or from several with commas between."""
        net = self.net
        for path in os.fspath(paths).split(","):
            net.load(path.strip())
        self.take(net.params)

    def share(self, other: Weights) -> None:
        """Use another net's weights, by layer name.

        Raises:
            WeightsError: where the weights of a layer that both have differ in number or shape.
        """
        for node in self._net.graph.nodes:
            theirs = other.by_layer.get(node.key)
            if not node.weights or theirs is None:
                continue
            mine = self.by_layer[node.key]
            if [blob.shape for blob in mine] != [blob.shape for blob in theirs]:
                raise WeightsError(
                    f'layer "{node.key}": weights of shapes {[blob.shape for blob in mine]} cannot be shared with '
                    f"{[blob.shape for blob in theirs]}.",
                    layer=node.key,
                )
            mine[:] = theirs
            for ref, blob in zip(node.weights, theirs, strict=True):
                if ref.owner == node.key:
                    self.owned[ref.key] = blob

    def clear_gradients(self) -> None:
        """Set all gradients to zero."""
        for blob in self.owned.values():
            blob.gradients.fill(0)


__all__ = ["Weights"]
