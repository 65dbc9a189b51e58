"""Curves over steps as inline SVG, several over each other, colored by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from avrt.pages.plots import SERIES

WIDTH, HEIGHT = 460, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 22
MOST_POINTS = 300
"""Points that a drawn curve has at most; of a longer one, means of neighbors are drawn."""

_DASHES = ("", "6 3", "2 3")
"""A further round of colors is drawn dashed."""


@dataclass(frozen=True)
class Curve:
    """A curve: its name, and values by step, ascending."""

    name: str
    points: Sequence[tuple[int, float]]


def style_of(number: int) -> tuple[str, str]:
    """Color (one of `SERIES`) and dashes of the n-th curve."""
    return SERIES[number % len(SERIES)], _DASHES[number // len(SERIES) % len(_DASHES)]


def line_plot(curves: Sequence[Curve], label: str) -> str:
    """Curves over each other on common axes; values that are not finite interrupt a curve.

    Args:
        curves: their order decides on their colors.
        label: the plot in words, for screen readers.
    """
    drawn = [_thinned(curve.points) for curve in curves]
    finite = [value for points in drawn for _, value in points if math.isfinite(value)]
    last = max((step for points in drawn for step, _ in points), default=1) or 1
    low, high, ticks = _axis(min(finite, default=0.0), max(finite, default=1.0))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(step: float) -> float:
        return LEFT + width * step / last

    def y(value: float) -> float:
        return TOP + height * (high - value) / (high - low)

    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y(tick) + 3:.1f}" text-anchor="end">{tick:g}</text>')
    for share in (0.0, 0.5, 1.0):
        anchor = {0.0: "start", 1.0: "end"}.get(share, "middle")
        place = x(share * last)
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{share * last:,.0f}</text>')
    for number, points in enumerate(drawn):
        color, dashes = style_of(number)
        dash = f' stroke-dasharray="{dashes}"' if dashes else ""
        for run in _finite_runs(points):
            corners = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in run)
            parts.append(f'<g class="series-{color}"><polyline class="curve" points="{corners}"{dash}/></g>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS` points: means of equal numbers of neighbors."""
    size = math.ceil(len(points) / MOST_POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(s for s, _ in group) / len(group), sum(v for _, v in group) / len(group)) for group in groups]


def _finite_runs(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """A range of round numbers around two values, and its marks."""
    span = high - low or abs(high) or 1.0
    rough = span / 4
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(magnitude * factor for factor in (1, 2, 5, 10) if magnitude * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        last += 1
    return first * step, last * step, [round(number * step, 12) for number in range(first, last + 1)]
