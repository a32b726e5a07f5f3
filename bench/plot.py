"""Draws a line chart with a logarithmic axis as SVG. Needs no plotting library."""

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 820, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 260, 50, 50
_TICKS = 4
_COLOURS = ("#1b6ca8", "#c2410c", "#15803d", "#7e22ce", "#b91c1c", "#0f766e", "#a16207", "#334155")


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    limit: float | None = None,
) -> str:
    """The chart as SVG text. Each series is a list of (x, y) with x above 0.

    The x axis is logarithmic, the y axis begins at 0. `limit` is drawn as a dashed line.
    """
    points = [point for line in series.values() for point in line]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    step = _step(max(*(y for _, y in points), limit or 0.0) / _TICKS)
    y_high = step * _TICKS

    def place(x: float, y: float) -> tuple[float, float]:
        along = math.log(x / x_low) / (math.log(x_high / x_low) or 1)
        return (
            _LEFT + along * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - y / y_high * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        ' font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="26" font-size="16" font-weight="600">{escape(title)}</text>',
    ]
    for tick in range(_TICKS + 1):
        value = step * tick
        x, y = place(x_low, value)
        parts.append(f'<path d="M{x:.0f} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{x - 8:.0f}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for value in sorted({x for x, _ in points}):
        x, y = place(value, 0)
        parts.append(
            f'<text x="{x:.0f}" y="{y + 18:.1f}" text-anchor="middle">{_short(value)}</text>'
        )
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 12}"'
        f' text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text transform="translate(18 {_HEIGHT / 2:.0f}) rotate(-90)"'
        f' text-anchor="middle">{escape(y_label)}</text>'
    )
    if limit is not None:
        x, y = place(x_low, limit)
        parts.append(
            f'<path d="M{x:.0f} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#6b7280"'
            ' stroke-dasharray="6 4"/>'
        )
        parts.append(f'<text x="{x + 4:.0f}" y="{y - 6:.1f}" fill="#6b7280">{limit:g}</text>')
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in (place(*point) for point in line):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        legend = _TOP + 20 * number
        parts.append(
            f'<rect x="{_WIDTH - _RIGHT + 16}" y="{legend - 9}" width="10" height="10"'
            f' fill="{colour}"/><text x="{_WIDTH - _RIGHT + 32}" y="{legend}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _step(least: float) -> float:
    """The smallest round number that is not below `least`."""
    size = 10.0 ** math.floor(math.log10(least or 1))
    return next(size * n for n in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10) if size * n >= least)


def _short(value: float) -> str:
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"
