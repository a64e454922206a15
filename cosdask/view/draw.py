"""Pictures of nets: boxes and arrows in layers, drawn with matplotlib alone (no Graphviz program is needed).

The layout is the usual one for directed graphs (Sugiyama, Tagawa and Toda 1981): every box gets a row below all that it
reads, boxes of a row are ordered so that arrows cross seldom, then each is moved towards the boxes it is joined to.
Layers that work in place are lines in the box of the layer whose blob they change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from cosdask.errors import ConfigError
from cosdask.proto import caffe_pb2
from cosdask.storage import atomic_write
from cosdask.view.layered import Place, layered_layout

FORMATS = ("svg", "png", "pdf")
_LINE = 0.17  # inches a line of text
_LETTER = 0.075  # inches a letter
_SMALL_LINE, _SMALL_LETTER = 0.15, 0.056  # of the labels beside arrows
_GAP_ACROSS, _GAP_ALONG = 0.3, 0.42
_MARGIN = 0.25
_DPI = 110
_LONGEST = 60_000  # pixels: images of more cannot be opened by most programs
_COLORS = (
    (("Data", "Input"), "#e8e4f3"),
    (("Loss", "Accuracy"), "#f6d5d0"),
    (("Convolution", "Deconvolution", "InnerProduct", "LSTM", "RNN", "Embed"), "#cfe3f5"),
    (("Pooling", "SPP"), "#d8edd3"),
    (("LRN", "BatchNorm", "Scale", "Bias", "MVN"), "#fbeccb"),
)
_PLAIN = "#eeeeee"
#: the middle of something and its size: x, y, width, height
Area = tuple[float, float, float, float]


@dataclass
class Box:
    """A layer's box: its lines of text, and the blobs it makes."""

    lines: list[str]
    color: str
    made: dict[str, str] = field(default_factory=dict)

    @property
    def width(self) -> float:
        """Inches."""
        return max(map(len, self.lines)) * _LETTER + 0.2

    @property
    def height(self) -> float:
        """Inches."""
        return len(self.lines) * _LINE + 0.1


@dataclass(frozen=True)
class Arrow:
    """From one box to another, by number, with the blob's name (and shape) beside it."""

    start: int
    end: int
    label: str


def draw_net(
    layers: Iterable[caffe_pb2.LayerParameter],
    path: str | Path,
    shapes: Mapping[str, Sequence[int]] | None = None,
    title: str = "",
    sideways: bool = False,
) -> None:
    """Writes a picture of a net.

    Args:
        layers: of one phase, such as ``net.layers`` or a filtered ``NetParameter``'s.
        path: local path or URL; its ending chooses the format: ``.svg``, ``.png`` or ``.pdf``.
        shapes: shapes by blob, such as ``net.blob_shapes``, written beside the arrows.
        title: above the picture.
        sideways: data flows from left to right instead of downwards.

    Raises:
        ConfigError: an ending that names none of the formats.
        StorageError: the file cannot be written.
    """
    suffix = Path(path).suffix.lower().lstrip(".")
    if suffix not in FORMATS:
        raise ConfigError(f'{path}: end the name with {", ".join("." + f for f in FORMATS)}, not "{Path(path).suffix}"')
    boxes, arrows = net_graph(layers, shapes or {})
    picture = _render(boxes, arrows, title, sideways)
    longest = max(picture.get_size_inches())
    dpi = min(_DPI, _LONGEST / longest)
    # the same net gives the same file
    plain: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cosdask"}):
        atomic_write(path, lambda file: picture.savefig(file, format=suffix, dpi=dpi, metadata=plain[suffix]))


def net_graph(
    layers: Iterable[caffe_pb2.LayerParameter], shapes: Mapping[str, Sequence[int]]
) -> tuple[list[Box], list[Arrow]]:
    """The boxes in the net's order and the arrows between them.

    Example:
        >>> lrn = caffe_pb2.LayerParameter(name="norm", type="LRN", bottom=["x"], top=["norm"])
        >>> relu = caffe_pb2.LayerParameter(name="relu", type="ReLU", bottom=["norm"], top=["norm"])
        >>> data = caffe_pb2.LayerParameter(name="x", type="Input", top=["x"])
        >>> boxes, arrows = net_graph([data, lrn, relu], {"x": (1, 3)})
        >>> [box.lines for box in boxes], [(a.start, a.end, a.label) for a in arrows]
        ([['x', 'Input'], ['norm', 'LRN', '+ relu: ReLU']], [(0, 1, '1x3')])
    """
    boxes: list[Box] = []
    arrows: list[Arrow] = []
    maker: dict[str, int] = {}
    for layer in layers:
        if len(layer.bottom) == 1 and list(layer.bottom) == list(layer.top) and layer.bottom[0] in maker:
            boxes[maker[layer.bottom[0]]].lines.append(f"+ {layer.name}: {_described(layer)}")
            continue
        number = len(boxes)
        boxes.append(Box([layer.name, *_described(layer).split("\n")], _color(layer.type)))
        for bottom in dict.fromkeys(layer.bottom):
            if bottom in maker:
                arrows.append(Arrow(maker[bottom], number, _blob_label(bottom, boxes[maker[bottom]], shapes)))
        maker.update(dict.fromkeys(layer.top, number))
    return boxes, arrows


def _blob_label(blob: str, box: Box, shapes: Mapping[str, Sequence[int]]) -> str:
    size = "x".join(map(str, shapes[blob])) if shapes.get(blob) else ""
    named = "" if blob == box.lines[0] else blob
    return " ".join(part for part in (named, size) if part)


def _described(layer: caffe_pb2.LayerParameter) -> str:
    """The type, and in a second line what readers look for first."""
    match layer.type:
        case "Convolution" | "Deconvolution":
            param = layer.convolution_param
            sizes = list(param.kernel_size) or [param.kernel_h, param.kernel_w]
            kernel = "x".join(map(str, sizes * 2 if len(sizes) == 1 else sizes))
            extra = [f"{name} {'x'.join(map(str, values))}" for name, values in _windows(param)]
            extra += [f"group {param.group}"] if param.group > 1 else []
            return f"{layer.type}\n" + ", ".join([f"{param.num_output} of {kernel}", *extra])
        case "Pooling":
            pool = layer.pooling_param
            name = caffe_pb2.PoolingParameter.PoolMethod.Name(pool.pool)
            if pool.global_pooling:
                return f"Pooling\n{name}, global"
            kernel = f"{pool.kernel_h or pool.kernel_size}x{pool.kernel_w or pool.kernel_size}"
            return f"Pooling\n{name} {kernel}, stride {pool.stride}"
        case "InnerProduct":
            return f"InnerProduct\n{layer.inner_product_param.num_output} outputs"
        case "LSTM" | "RNN":
            return f"{layer.type}\n{layer.recurrent_param.num_output} outputs"
        case "Python":
            return f"Python\n{layer.python_param.module}.{layer.python_param.layer}"
        case "Eltwise":
            return f"Eltwise\n{caffe_pb2.EltwiseParameter.EltwiseOp.Name(layer.eltwise_param.operation)}"
        case "Dropout":
            return f"Dropout {layer.dropout_param.dropout_ratio:g}"
        case _:
            return layer.type


def _windows(param: caffe_pb2.ConvolutionParameter) -> list[tuple[str, list[int]]]:
    """Strides, pads and dilations that are not the usual ones."""
    found = [("stride", list(param.stride), 1), ("pad", list(param.pad), 0), ("dilation", list(param.dilation), 1)]
    return [(name, values) for name, values, usual in found if any(value != usual for value in values)]


def _color(kind: str) -> str:
    for words, color in _COLORS:
        if any(word in kind for word in words):
            return color
    return _PLAIN


def _render(boxes: Sequence[Box], arrows: Sequence[Arrow], title: str, sideways: bool) -> Any:
    """The figure; places come from the layout as (across, along) with rows stacked along."""
    from matplotlib.figure import Figure

    sizes = [(box.height, box.width) if sideways else (box.width, box.height) for box in boxes]
    edges = [(arrow.start, arrow.end) for arrow in arrows]
    along_gap = _GAP_ALONG
    if sideways:
        along_gap += max((len(arrow.label) for arrow in arrows), default=0) * _SMALL_LETTER
    layout = layered_layout(sizes, edges, _GAP_ACROSS, along_gap)
    across, along = layout.size
    width, height = (along, across) if sideways else (across, along)
    top = 0.35 if title else 0.0
    figure = Figure(figsize=(width + 2 * _MARGIN, height + 2 * _MARGIN + top))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-_MARGIN, width + _MARGIN)
    axes.set_ylim(height + _MARGIN, -_MARGIN - top)
    if title:
        axes.text(width / 2, -top + 0.05, title, ha="center", va="center", fontsize=12, weight="bold")

    def at(place: Place) -> Place:
        return (place[1], place[0]) if sideways else place

    routes = [[at(place) for place in route] for route in layout.routes]
    taken = [(*at(place), box.width, box.height) for box, place in zip(boxes, layout.places, strict=True)]
    for route in routes:
        _draw_arrow(axes, route, sideways)
    for arrow, route in zip(arrows, routes, strict=True):
        if arrow.label:
            taken.append(_label_area(route, arrow.label, sideways, taken, width))
            _draw_label(axes, arrow.label, taken[-1])
    for box, place in zip(boxes, layout.places, strict=True):
        _draw_box(axes, box, at(place))
    return figure


def _label_area(route: Sequence[Place], label: str, sideways: bool, taken: Sequence[Area], width: float) -> Area:
    """Where on its arrow a label covers least of what is there already; the first stretch's middle where that is free.

    A label that would leave a picture of this width is moved into it.
    """
    size = (len(label) * _SMALL_LETTER, _SMALL_LINE)
    room = max(0.0, width / 2 + _MARGIN - size[0] / 2)
    areas: list[Area] = []
    for start, end in pairwise(route):
        for share in (0.5, 0.35, 0.65, 0.2, 0.8):
            x, y = _on_curve(start, end, share, sideways)
            areas.append((min(max(x, width / 2 - room), width / 2 + room), y, *size))
    return min(areas, key=lambda area: sum(_overlap(area, other) for other in taken))


def _on_curve(start: Place, end: Place, share: float, sideways: bool) -> Place:
    """A point of an arrow's curve between two points of its route (see :func:`_draw_arrow`)."""
    # Bezier's cubic with both control points half way along: across it moves by the second share, along by the first
    along = 1.5 * share - 1.5 * share**2 + share**3
    across = share**2 * (3 - 2 * share)
    x, y = (along, across) if sideways else (across, along)
    return (start[0] + (end[0] - start[0]) * x, start[1] + (end[1] - start[1]) * y)


def _overlap(one: Area, other: Area) -> float:
    """How much of each other two areas cover."""
    sides = [
        min(one[axis] + one[axis + 2] / 2, other[axis] + other[axis + 2] / 2)
        - max(one[axis] - one[axis + 2] / 2, other[axis] - other[axis + 2] / 2)
        for axis in (0, 1)
    ]
    return max(0.0, sides[0]) * max(0.0, sides[1])


def _draw_box(axes: Any, box: Box, middle: Place) -> None:
    from matplotlib.patches import FancyBboxPatch

    x, y = middle[0] - box.width / 2, middle[1] - box.height / 2
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch((x, y), box.width, box.height, style, facecolor=box.color, edgecolor="#555555", linewidth=0.8)
    )
    for number, line in enumerate(box.lines):
        weight = "bold" if number == 0 else "normal"
        height = y + 0.05 + _LINE * (number + 0.5)
        # a name may hold dollar signs, which are no formula
        axes.text(middle[0], height, line, ha="center", va="center", fontsize=8, weight=weight, parse_math=False)


def _draw_arrow(axes: Any, route: Sequence[Place], sideways: bool) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    points, codes = [route[0]], [Curve.MOVETO]
    for start, end in pairwise(route):
        # leaves and arrives along the flow
        if sideways:
            half = (start[0] + end[0]) / 2
            points += [(half, start[1]), (half, end[1]), end]
        else:
            half = (start[1] + end[1]) / 2
            points += [(start[0], half), (end[0], half), end]
        codes += [Curve.CURVE4] * 3
    curve = Curve(points, codes)
    axes.add_patch(
        FancyArrowPatch(path=curve, arrowstyle="-|>", mutation_scale=8, color="#444444", linewidth=0.9, fill=False)
    )


def _draw_label(axes: Any, label: str, area: Area) -> None:
    background = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
    axes.text(
        *area[:2], label, ha="center", va="center", fontsize=6.5, color="#333333", bbox=background, parse_math=False
    )


__all__ = ["FORMATS", "Arrow", "Box", "draw_net", "net_graph"]
