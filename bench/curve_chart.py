"""Curves as SVG: scores of recipes over a cost on a logarithmic scale, without any script."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from html import escape
from typing import Literal

from bench.result import Result

Cost = Literal["tflop", "minutes"]
AXES = {"tflop": "TFLOP of forward and backward", "minutes": "minutes, compiling included"}

WIDTH, HEIGHT = 600, 380
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 16, 44
"""Room beside the plot [user units]: the scale, the names, the edge, the axis."""
TICKS = (1, 2, 5)
"""Of each power of ten."""
COLORS = ("#b5533c", "#2f7d5b", "#3b6fb0", "#8a5fb0", "#9a7b1c")
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.grid{stroke:#ddd}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.grid{stroke:#444}}"
)

Scale = Callable[[float], float]


def curve_chart(results: Sequence[Result], cost: Cost, title: str) -> str:
    """An ``<svg>`` with a line for each recipe: means over seeds, and a mark from least to largest.

    Args:
        results: Of :func:`bench.recipe_curves.curves_section`.
        cost: What the horizontal axis is.
        title: For those who do not see it.
    """
    costs = [_cost(each, cost) for each in results]
    values = [value for each in results for value in each.repeats]
    x, x_ticks = _log_axis(min(costs), max(costs))
    y, y_ticks = _score_axis(min(values), max(values))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title><style>{STYLE}</style>'
    ]
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in x_ticks:
        at = f"{x(tick):.1f}"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 17}" text-anchor="middle">{tick:,g}</text>')
    for tick in y_ticks:
        at = f"{y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at}" y2="{at}"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.2f}</text>'
        )
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{AXES[cost]}</text>')
    for number, recipe in enumerate(dict.fromkeys(each.details["recipe"] for each in results)):
        of_it = sorted(
            (each for each in results if each.details["recipe"] == recipe),
            key=lambda each: _cost(each, cost),
        )
        parts += _line(recipe, of_it, cost, x, y, COLORS[number % len(COLORS)])
    return "".join([*parts, "</svg>\n"])


def _line(
    recipe: str, results: Sequence[Result], cost: Cost, x: Scale, y: Scale, color: str
) -> list[str]:
    places = [(x(_cost(each, cost)), y(statistics.fmean(each.repeats))) for each in results]
    way = " ".join(f"{across:.1f},{up:.1f}" for across, up in places)
    parts = [f'<polyline points="{way}" fill="none" stroke="{color}" stroke-width="2"/>']
    for (across, up), result in zip(places, results, strict=True):
        low, high = y(min(result.repeats)), y(max(result.repeats))
        said = escape(f"{result.name}: {statistics.fmean(result.repeats):.3f}")
        parts.append(
            f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{low:.1f}" y2="{high:.1f}" '
            f'stroke="{color}" stroke-width="1.5"/>'
            f'<circle cx="{across:.1f}" cy="{up:.1f}" r="4" fill="{color}"><title>{said}</title></circle>'
        )
    across, up = places[-1]
    parts.append(
        f'<text x="{across + 9:.1f}" y="{up + 4:.1f}" style="fill:{color}">{escape(recipe)}</text>'
    )
    return parts


def _cost(result: Result, cost: Cost) -> float:
    if cost == "tflop":
        return float(result.details["tflop"])
    return statistics.fmean(result.details["seconds"]) / 60


def _log_axis(least: float, most: float) -> tuple[Scale, list[float]]:
    """Where a cost lies, and the round ones on the way; wider than the values by a tenth."""
    low, high = math.log(least / 1.1), math.log(most * 1.1)
    powers = range(math.floor(math.log10(least)) - 1, math.ceil(math.log10(most)) + 1)
    ticks = [each * 10.0**power for power in powers for each in TICKS]
    span = WIDTH - LEFT - RIGHT
    return (
        lambda value: LEFT + span * (math.log(value) - low) / (high - low),
        [each for each in ticks if low <= math.log(each) <= high],
    )


def _score_axis(least: float, most: float) -> tuple[Scale, list[float]]:
    """Where a score lies, and the tenths or twentieths on the way; ends on round ones."""
    step = 0.1 if most - least > 0.3 else 0.05
    low, high = math.floor(least / step) * step, math.ceil(most / step) * step
    high = max(high, low + step)
    span = HEIGHT - TOP - BOTTOM
    count = round((high - low) / step)
    return (
        lambda value: TOP + span * (high - value) / (high - low),
        [low + at * step for at in range(count + 1)],
    )
