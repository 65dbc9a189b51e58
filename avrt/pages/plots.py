"""Small plots of shares as inline SVG: text for a page, colored by the page's style sheet.

All plots of shares have the same width and scale, so that the plots of a table's column are comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 240
MARGIN = 16
_SPAN = WIDTH - 2 * MARGIN
_ROW = 16

SERIES = "abcdef"
"""The colors of runs; a further run has the first one again."""


@dataclass(frozen=True)
class Point:
    """A value with its interval. `series` is one of `SERIES`, which the style sheet colors."""

    value: float
    low: float
    high: float
    series: str = "a"


def interval_plot(
    points: Sequence[Point], label: str, *, marks: Sequence[float] = (), scale: float | None = None
) -> str:
    """Points with whiskers, one below the other, on an axis of shares or of differences.

    Args:
        points: from top to bottom.
        label: the plot in words, for screen readers.
        marks: values to mark with a dashed line (chance level).
        scale: None for shares, from 0 to 1; else the axis of differences goes from -scale to scale.
    """
    height = _ROW * max(1, len(points)) + 2
    parts = [_grid(height, scale)]
    for mark in marks:
        parts.append(f'<line class="chance" x1="{_x(mark, scale)}" x2="{_x(mark, scale)}" y1="0" y2="{height}"/>')
    for row, point in enumerate(points):
        y = _ROW * row + _ROW // 2 + 1
        low, high, x = _x(point.low, scale), _x(point.high, scale), _x(point.value, scale)
        parts.append(
            f'<g class="series-{point.series}"><line x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
            f'<line x1="{low}" x2="{low}" y1="{y - 3}" y2="{y + 3}"/>'
            f'<line x1="{high}" x2="{high}" y1="{y - 3}" y2="{y + 3}"/>{_marker(x, y, point.series)}</g>'
        )
    return _svg("".join(parts), WIDTH, height, label)


def axis(scale: float | None = None, unit: str = "%") -> str:
    """The numbers above a column of interval plots."""
    values = _ticks(scale)
    texts = (
        f'<text x="{_x(value, scale)}" y="10" text-anchor="middle">'
        f"{'+' if scale and value > 0 else ''}{100 * value:.0f}</text>"
        for value in values
    )
    return _svg("".join(texts), WIDTH, 13, f"scale from {100 * values[0]:.0f} to {100 * values[-1]:.0f} {unit}")


def difference_scale(limits: Sequence[float]) -> float:
    """The smallest of a few round half-axes that covers all limits."""
    largest = max((abs(limit) for limit in limits), default=0.0)
    return next((scale for scale in (0.04, 0.1, 0.2, 0.4) if largest <= scale), 1.0)


def stacked_bar(parts: Sequence[tuple[str, int]], label: str) -> str:
    """Counts side by side as shares of their sum; each part is (class in the style sheet, count)."""
    total = sum(count for _, count in parts)
    drawn, start = [], 0
    for name, count in parts:
        if count:
            x, width = _SPAN * start / total, _SPAN * count / total
            drawn.append(f'<rect class="part-{name}" x="{MARGIN + x:.2f}" y="3" width="{width:.2f}" height="12"/>')
        start += count
    return _svg("".join(drawn), WIDTH, 18, label)


def bars(shares: Sequence[tuple[str, float]], label: str) -> str:
    """Shares of the whole as bars, one below the other, on the scale of `interval_plot`.

    Args:
        shares: one of `SERIES`, which the style sheet colors, and a share from 0 to 1; from top to bottom.
        label: the plot in words, for screen readers.
    """
    thickness = 10 if len(shares) == 1 else 5
    height = (thickness + 1) * len(shares) + 5
    drawn = [
        f'<rect class="series-{series}" x="{MARGIN}" y="{3 + row * (thickness + 1)}" '
        f'width="{max(0.5, _SPAN * share):.2f}" height="{thickness}"/>'
        for row, (series, share) in enumerate(shares)
        if share > 0
    ]
    return _svg(_grid(height, None) + "".join(drawn), WIDTH, height, label)


def _grid(height: int, scale: float | None) -> str:
    return "".join(
        f'<line class="{"zero" if scale and value == 0 else "grid"}" '
        f'x1="{_x(value, scale)}" x2="{_x(value, scale)}" y1="0" y2="{height}"/>'
        for value in _ticks(scale)
    )


def _ticks(scale: float | None) -> list[float]:
    return [0, 0.25, 0.5, 0.75, 1] if scale is None else [-scale, -scale / 2, 0, scale / 2, scale]


def _x(value: float, scale: float | None) -> str:
    share = value if scale is None else (value + scale) / (2 * scale)
    return f"{MARGIN + _SPAN * min(1.0, max(0.0, share)):.2f}"


def _marker(x: str, y: int, series: str) -> str:
    if SERIES.index(series) % 2:
        return f'<rect x="{float(x) - 3:.2f}" y="{y - 3}" width="6" height="6"/>'
    return f'<circle cx="{x}" cy="{y}" r="3.5"/>'


def _svg(content: str, width: int, height: int, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">{content}</svg>'
    )
