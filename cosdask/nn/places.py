"""Where in a prototxt each layer of a net is written, so that errors can say it."""

from __future__ import annotations

from collections import Counter

from cosdask.proto import caffe_pb2, layer_included, layer_lines


def layer_places(text: str, whole: caffe_pb2.NetParameter, state: caffe_pb2.NetState) -> dict[str, int]:
    r"""The line of each layer's block, by name, for the layers that belong to a state.

    A name may be used in several blocks, for TRAIN and for TEST say: the one that belongs to the state counts.

    Args:
        text: the prototxt.
        whole: its message with the layers of all states, upgraded.
        state: the state that the net was filtered for.

    Example:
        >>> from cosdask.proto import parse_net
        >>> text = 'layer { name: "a" include { phase: TRAIN } }\nlayer { name: "a" include { phase: TEST } }'
        >>> layer_places(text, parse_net(text), caffe_pb2.NetState(phase="TEST"))
        {'a': 2}
    """
    lines = layer_lines(text)
    seen: Counter[str] = Counter()
    places: dict[str, int] = {}
    for layer in whole.layer:
        occurrence = seen[layer.name]
        seen[layer.name] += 1
        if layer.name in lines and layer_included(layer, state):
            written = lines[layer.name]
            places.setdefault(layer.name, written[min(occurrence, len(written) - 1)])
    return places
