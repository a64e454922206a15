"""Small charts as SVG text: curves over iterations, for pages that load nothing from elsewhere."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

#: size of a chart, and the room around its plot: left, right, top, bottom
WIDTH, HEIGHT = 520, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 30, 34
#: a curve is drawn with so many points at most; more than the eye, or a page, needs
POINTS = 600
COLORS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2")


@dataclass(frozen=True)
class Curve:
    """A line, or with ``filled`` a band that is stacked on those before it.

    Attributes:
        name: for the legend.
        points: (x, y), by growing x; what is no finite number is left out.
        dots: mark each point.
        filled: stack it.
    """

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    filled: bool = False


def chart(title: str, curves: Sequence[Curve], marks: Sequence[float] = (), share: bool = False) -> str:
    """An ``<svg>`` of curves over iterations.

    Args:
        title: stands above.
        curves: at least one with a point; else the chart says that there is nothing.
        marks: iterations with a dashed vertical line.
        share: y goes from 0 to 1 and is shown in percent.

    Example:
        >>> text = chart("loss", [Curve("train", [(0, 2.0), (10, 1.0)])])
        >>> text.startswith("<svg") and "polyline" in text
        True
    """
    drawn = [(curve, _thinned(curve.points)) for curve in curves]
    drawn = [(curve, points) for curve, points in drawn if points]
    head = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        f'<text class="title" x="{_LEFT}" y="18">{html.escape(title)}</text>'
    )
    if not drawn:
        return f'{head}<text class="tick" x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no values</text></svg>'
    axes = _Axes([points for _, points in drawn], share)
    parts = [head, axes.grid(), *(axes.mark(x) for x in marks if axes.low_x <= x <= axes.high_x)]
    below = [0.0] * max(len(points) for _, points in drawn)
    for number, (curve, points) in enumerate(drawn):
        color = COLORS[number % len(COLORS)]
        if curve.filled:
            top = [low + y for low, (_, y) in zip(below, points, strict=False)]
            parts.append(axes.band([x for x, _ in points], below[: len(points)], top, color))
            below = top
        else:
            parts.append(axes.line(points, color, curve.dots or len(points) == 1))
    return "".join([*parts, _legend([curve.name for curve, _ in drawn]), "</svg>"])


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``POINTS`` points: means of neighbours, and the last as it is."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if len(finite) <= POINTS:
        return finite
    size = math.ceil(len(finite) / POINTS)
    groups = [finite[start : start + size] for start in range(0, len(finite) - 1, size)]
    means = [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
    return [*means, finite[-1]]


class _Axes:
    """Where values lie on the page."""

    def __init__(self, groups: Sequence[Sequence[tuple[float, float]]], share: bool) -> None:
        xs = [x for points in groups for x, _ in points]
        ys = [y for points in groups for _, y in points]
        self.low_x, self.high_x = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
        self.share = share
        low, high = (0.0, 1.0) if share else (min(ys), max(ys))
        if low > 0 and low < 0.5 * high:
            low = 0.0
        if high <= low:
            low, high = (low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1))
        self.ticks_y = _ticks(low, high)
        self.low, self.high = min(low, self.ticks_y[0]), max(high, self.ticks_y[-1])

    def x(self, value: float) -> float:
        return _LEFT + (value - self.low_x) / (self.high_x - self.low_x) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        part = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return HEIGHT - _BOTTOM - part * (HEIGHT - _TOP - _BOTTOM)

    def grid(self) -> str:
        parts = []
        for value in self.ticks_y:
            y = self.y(value)
            shown = f"{value:.0%}" if self.share else _number(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{shown}</text>')
        whole = [value for value in _ticks(self.low_x, self.high_x) if self.low_x <= value <= self.high_x]
        for value in whole:
            place = f'x="{self.x(value):.1f}" y="{HEIGHT - _BOTTOM + 15}"'
            parts.append(f'<text class="tick" {place} text-anchor="middle">{_number(value)}</text>')
        place = f'x="{(WIDTH + _LEFT - _RIGHT) / 2}" y="{HEIGHT - 4}"'
        return "".join(parts) + f'<text class="tick" {place} text-anchor="middle">iteration</text>'

    def mark(self, value: float) -> str:
        x = self.x(value)
        return f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'

    def line(self, points: Sequence[tuple[float, float]], color: str, dots: bool) -> str:
        text = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        found = f'<polyline points="{text}" fill="none" stroke="{color}" stroke-width="1.6"/>'
        for x, y in points if dots else ():
            place = f'cx="{self.x(x):.1f}" cy="{self.y(y):.1f}"'
            found += f'<circle {place} r="2.6" fill="{color}"><title>{_number(x)}: {_number(y)}</title></circle>'
        return found

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], color: str) -> str:
        there = [f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, high, strict=True)]
        back = [f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, low, strict=True)]
        return f'<polygon points="{" ".join([*there, *reversed(back)])}" fill="{color}" fill-opacity="0.75"/>'


def _legend(names: Sequence[str]) -> str:
    """From the right end of the title's line to the left."""
    parts, right = [], float(WIDTH - _RIGHT)
    for number in reversed(range(len(names))):
        width = 6.8 * len(names[number]) + 24
        right -= width
        color = COLORS[number % len(COLORS)]
        parts.append(f'<rect x="{right:.0f}" y="10" width="10" height="10" rx="2" fill="{color}"/>')
        parts.append(f'<text class="tick" x="{right + 14:.0f}" y="19">{html.escape(names[number])}</text>')
    return "".join(parts)


def _ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from the last below ``low`` to the first above ``high``."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _number(value: float) -> str:
    if abs(value) >= 10000:
        for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if abs(value) >= size:
                return f"{value / size:.3g}{unit}"
    return f"{value:.4g}"
