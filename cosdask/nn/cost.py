"""What a net's layers cost: weights, multiply-accumulates, memory."""

from __future__ import annotations

from dataclasses import dataclass

from cosdask.nn.graph import AUTOMATIC, Node, layer_keys
from cosdask.nn.layer import Shape, count
from cosdask.nn.net import Net

BYTES = 4  # of a float32


@dataclass(frozen=True)
class LayerCost:
    """One layer's line.

    Attributes:
        name: of the layer.
        type: of the layer.
        bottoms: names of its bottoms.
        tops: shapes by top.
        weights: how many numbers the layer owns (a shared weight counts with its first owner).
        macs: multiply-accumulates of one forward pass, of the layers made of products; 0 for the others.
        memory: bytes of its tops (none where it works in place) and of its own weights, float32.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: dict[str, Shape]
    weights: int
    macs: int
    memory: int


def layer_costs(net: Net) -> list[LayerCost]:
    """The cost of every layer, in the net's order, for the shapes that the net states.

    Example:
        >>> net = Net.from_text('''
        ... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
        ... layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }
        ... ''')
        >>> [(line.name, line.weights, line.macs, line.memory) for line in layer_costs(net)]
        [('data', 0, 0, 24), ('ip', 16, 24, 96)]
    """
    nodes = {node.key: node for node in net.graph.nodes}
    lines = []
    for key, param in zip(layer_keys(net.layers), net.layers, strict=True):
        node = nodes.get(key)
        tops = {top: net.blob_shapes[top] for top in param.top if top != AUTOMATIC}
        own = 0 if node is None else sum(count(ref.weight.shape) for ref in node.weights if ref.owner == key)
        made = sum(count(shape) for top, shape in tops.items() if top not in param.bottom)
        macs = 0 if node is None else multiply_accumulates(node)
        lines.append(LayerCost(param.name, param.type, tuple(param.bottom), tops, own, macs, BYTES * (made + own)))
    return lines


def multiply_accumulates(node: Node) -> int:
    """Products of one forward pass of a layer that multiplies by weights; 0 for other types.

    A convolution uses each weight once for each place of its top, a deconvolution for each place of its bottom, an
    inner product for each row, a recurrent layer for each step of each sample.
    """
    layer = node.layer
    shapes = [ref.weight.shape for ref in node.weights]
    bottoms, tops = layer.bottom_shapes, layer.top_shapes
    match layer.type:
        case "Convolution":
            return sum(count(top) // shapes[0][0] for top in tops) * count(shapes[0])
        case "Deconvolution":
            return sum(count(bottom) // shapes[0][0] for bottom in bottoms) * count(shapes[0])
        case "InnerProduct":
            return count(tops[0]) // layer.param.inner_product_param.num_output * count(shapes[0])
        case "LSTM" | "RNN":
            steps, samples = bottoms[0][:2]
            matrices = [shape for shape in shapes if len(shape) == 2]
            static = matrices.pop(1) if getattr(layer, "static", False) else (0,)
            return samples * (steps * sum(map(count, matrices)) + count(static))
        case _:
            return 0


__all__ = ["LayerCost", "layer_costs", "multiply_accumulates"]
