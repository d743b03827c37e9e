"""Curves as a picture made here. For curves whose names are not known beforehand: gradio's own plot (6.31) goes on
with the names that it was first given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from acestep.ui import html

COLORS = ("#0d9488", "#d97706", "#2563eb", "#db2777", "#65a30d", "#7c3aed")
Points = Sequence[tuple[float, float]]
_WIDTH, _HEIGHT = 1000.0, 300.0  # of the drawing, which is stretched to the room there is
_TICKS = 5


def line_chart(curves: Mapping[str, Points], title: str, below: str) -> str:
    """Up to six curves with a legend; "" if there is no point at all.

    Args:
        below: what the horizontal axis is.
    """
    drawn = {name: points for name, points in curves.items() if points}
    if not drawn:
        return ""
    across = _range([x for points in drawn.values() for x, _ in points])
    up = _range([y for points in drawn.values() for _, y in points])
    colors = dict(zip(drawn, COLORS, strict=False))
    lines = "".join(_line(points, across, up, colors[name]) for name, points in drawn.items())
    grid = "".join(f'<path d="M0 {_place(y, up, -_HEIGHT):.1f}H{_WIDTH:g}"/>' for y in _ticks(*up))
    left = "".join(f'<li style="bottom:{_place(y, up, 100):.1f}%">{y:g}</li>' for y in _ticks(*up))
    bottom = "".join(f'<li style="left:{_place(x, across, 100):.1f}%">{x:g}</li>' for x in _ticks(*across))
    legend = "".join(f'<li style="--c:{color}">{html.text(name)}</li>' for name, color in colors.items())
    told = "; ".join(f"{name} ends at {points[-1][1]:.4g}" for name, points in drawn.items())
    return (
        f'<figure class="ac-chart"><figcaption>{html.text(title)}</figcaption><ul class="ac-legend">{legend}</ul>'
        f'<div class="ac-plot"><ul class="ac-up" aria-hidden="true">{left}</ul>'
        f'<svg viewBox="0 {-_HEIGHT:g} {_WIDTH:g} {_HEIGHT:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.text(title)}: {html.text(told)}"><g class="ac-lines">{grid}</g>{lines}</svg>'
        f'<ul class="ac-across" aria-hidden="true">{bottom}</ul></div>'
        f'<p class="ac-phase">{html.text(below)}</p></figure>'
    )


def _line(points: Points, across: tuple[float, float], up: tuple[float, float], color: str) -> str:
    places = " ".join(f"{_place(x, across, _WIDTH):.1f},{_place(y, up, -_HEIGHT):.1f}" for x, y in points)
    return f'<polyline points="{places}" stroke="{color}"/>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 1.0, high + 1.0)


def _place(value: float, span: tuple[float, float], size: float) -> float:
    return size * (value - span[0]) / (span[1] - span[0])


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``, about five."""
    rough = (high - low) / _TICKS
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]
