"""Line charts as SVG, for series whose names may change while the page is open."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from acestep.ui import html

COLORS = ("#0d9488", "#d97706", "#2563eb", "#db2777", "#65a30d", "#7c3aed")
MAX_POINTS = 400  # a chart is about a thousand pixels wide
Points = Sequence[tuple[float, float]]
_WIDTH, _HEIGHT = 1000.0, 300.0  # of the view box, which is stretched to the available room
_TICKS = 5


@dataclass(frozen=True, slots=True)
class Series:
    """One line with its name in the legend; "" takes the next of ``COLORS``."""

    name: str
    points: Points
    color: str = ""


def thin(points: Points, most: int = MAX_POINTS) -> Points:
    """At most ``most`` points, always with the last one."""
    every = -(-len(points) // most)
    return points[::-1][::every][::-1] if every > 1 else points


def smooth(points: Points, beta: float) -> Points:
    """The exponential moving average with decay ``beta``, corrected for its bias at the start."""
    smoothed, mean, weight = [], 0.0, 0.0
    for x, value in points:
        mean = beta * mean + (1 - beta) * value
        weight = beta * weight + (1 - beta)
        smoothed.append((x, mean / weight))
    return smoothed


def line_chart(series: Iterable[Series], title: str, x_label: str) -> str:
    """A chart with a legend as HTML; "" without any point. A single series needs no legend."""
    drawn = [each for each in series if each.points]
    if not drawn:
        return ""
    x_range = _range([x for each in drawn for x, _ in each.points])
    y_range = _range([y for each in drawn for _, y in each.points])
    colors = [each.color or COLORS[number % len(COLORS)] for number, each in enumerate(drawn)]
    lines = "".join(_line(each.points, x_range, y_range, color) for each, color in zip(drawn, colors, strict=True))
    grid = "".join(f'<path d="M0 {_scale(y, y_range, -_HEIGHT):.1f}H{_WIDTH:g}"/>' for y in _ticks(*y_range))
    left = "".join(f'<li style="bottom:{_scale(y, y_range, 100):.1f}%">{y:g}</li>' for y in _ticks(*y_range))
    bottom = "".join(f'<li style="left:{_scale(x, x_range, 100):.1f}%">{x:g}</li>' for x in _ticks(*x_range))
    items = (f'<li style="--c:{color}">{html.text(each.name)}</li>' for each, color in zip(drawn, colors, strict=True))
    legend = f'<ul class="ac-legend">{"".join(items)}</ul>' if len(drawn) > 1 else ""
    summary = "; ".join(f"{each.name} ends at {each.points[-1][1]:.4g}" for each in drawn)
    return (
        f'<figure class="ac-chart"><figcaption>{html.text(title)}</figcaption>{legend}'
        f'<div class="ac-plot"><ul class="ac-up" aria-hidden="true">{left}</ul>'
        f'<svg viewBox="0 {-_HEIGHT:g} {_WIDTH:g} {_HEIGHT:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.text(title)}: {html.text(summary)}"><g class="ac-lines">{grid}</g>{lines}</svg>'
        f'<ul class="ac-across" aria-hidden="true">{bottom}</ul></div>'
        f'<p class="ac-phase">{html.text(x_label)}</p></figure>'
    )


def _line(points: Points, x_range: tuple[float, float], y_range: tuple[float, float], color: str) -> str:
    positions = " ".join(f"{_scale(x, x_range, _WIDTH):.1f},{_scale(y, y_range, -_HEIGHT):.1f}" for x, y in points)
    return f'<polyline points="{positions}" stroke="{color}"/>'


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = abs(low) / 10 or 1.0  # around a constant
    return (low, high) if high > low else (low - margin, high + margin)


def _scale(value: float, span: tuple[float, float], size: float) -> float:
    return size * (value - span[0]) / (span[1] - span[0])


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from ``low`` to ``high``."""
    rough = (high - low) / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    first = math.ceil(low / step)
    return [float(f"{number * step:.10g}") for number in range(first, math.floor(high / step) + 1)]
