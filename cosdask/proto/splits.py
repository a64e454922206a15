"""The Split layers that Caffe puts in wherever a blob is read more than once.

cosdask needs none to compute; they are put in when weights are saved, so that a caffemodel holds the layers that
Caffe's own would.
"""

from __future__ import annotations

from collections import Counter

from cosdask.errors import ProtoError, did_you_mean
from cosdask.proto import caffe_pb2

# A blob is known by (number of the layer that makes it, which of its tops): names repeat in place.
Top = tuple[int, int]


def insert_splits(net: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """A filtered net with a Split layer after each top that is used more than once.

    A top with a loss weight counts as used once more. Its weight moves to the Split layer's first output, and the layer
    loses all its loss weights, as in Caffe.

    Args:
        net: an upgraded net of one phase; it stays as it is.

    Raises:
        ProtoError: a bottom that no earlier layer makes.

    Example:
        >>> net = caffe_pb2.NetParameter()
        >>> for name, bottoms, tops in (("d", [], ["x"]), ("a", ["x"], ["y"]), ("b", ["x"], ["z"])):
        ...     layer = net.layer.add(name=name, bottom=bottoms, top=tops)
        >>> [(layer.name, list(layer.bottom)) for layer in insert_splits(net).layer]
        [('d', []), ('x_d_0_split', ['x']), ('a', ['x_d_0_split_0']), ('b', ['x_d_0_split_1'])]
    """
    sources, uses, weights = _trace(net)
    taken = Counter({top: 1 for top, weight in weights.items() if weight})  # the loss reads the first copy
    split = caffe_pb2.NetParameter()
    split.CopyFrom(net)
    del split.layer[:]
    for index, layer in enumerate(net.layer):
        copy = split.layer.add()
        copy.CopyFrom(layer)
        for position, source in enumerate(sources[index]):
            if uses[source] > 1:
                blob = _split_name(net, source)
                copy.bottom[position] = f"{blob}_{taken[source]}"
                taken[source] += 1
        for position in range(len(layer.top)):
            top = (index, position)
            if uses[top] > 1:
                if weights.get(top):
                    del copy.loss_weight[:]
                split.layer.append(_split_layer(net, top, uses[top], weights.get(top, 0.0)))
    return split


def _trace(net: caffe_pb2.NetParameter) -> tuple[list[list[Top]], Counter[Top], dict[Top, float]]:
    """Who makes each bottom, by layer; how often each top is used; the loss weight of each top that has one."""
    latest: dict[str, Top] = {}
    sources: list[list[Top]] = []
    uses: Counter[Top] = Counter()
    weights: dict[Top, float] = {}
    for index, layer in enumerate(net.layer):
        for bottom in layer.bottom:
            if bottom not in latest:
                near = did_you_mean(bottom, latest)
                raise ProtoError(
                    f'layer "{layer.name}" reads "{bottom}", which no layer before it makes.{near}', layer=layer.name
                )
        sources.append([latest[bottom] for bottom in layer.bottom])
        uses.update(sources[-1])
        latest.update({name: (index, position) for position, name in enumerate(layer.top)})
        for name, weight in zip(layer.top, layer.loss_weight, strict=False):
            weights[latest[name]] = weight
            uses[latest[name]] += bool(weight)
    return sources, uses, weights


def _split_name(net: caffe_pb2.NetParameter, top: Top) -> str:
    layer = net.layer[top[0]]
    return f"{layer.top[top[1]]}_{layer.name}_{top[1]}_split"


def _split_layer(net: caffe_pb2.NetParameter, top: Top, count: int, loss_weight: float) -> caffe_pb2.LayerParameter:
    name = _split_name(net, top)
    return caffe_pb2.LayerParameter(
        name=name,
        type="Split",
        bottom=[net.layer[top[0]].top[top[1]]],
        top=[f"{name}_{copy}" for copy in range(count)],
        loss_weight=[loss_weight] + [0.0] * (count - 1) if loss_weight else [],
    )
