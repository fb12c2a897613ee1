"""Bars as SVG: rates on a logarithmic scale, readable in light and dark, without any script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from bench.result import Result, interval, number

WIDTH, ROW, NAMES, BARS = 600, 26, 180, 230
"""Of the picture, a row, the names and the longest bar [user units]; the figures take the rest."""
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.bar{fill:#3a7d5c}.span{stroke:#222;stroke-width:1.5}"
    ".grid{stroke:#ccc}@media(prefers-color-scheme:dark){text{fill:#ddd}.span{stroke:#eee}"
    ".grid{stroke:#555}.bar{fill:#58a883}}"
)


def log_chart(results: Sequence[Result], title: str) -> str:
    """An ``<svg>`` with a bar, a mark for the interval, and the figure of each measured result."""
    rows = [each for each in results if each.measured and each.median]
    if not rows:
        return ""
    low = math.floor(math.log10(min(each.median or 1 for each in rows)))
    high = max(low + 1, math.ceil(math.log10(max(each.median or 1 for each in rows))))

    def x(value: float) -> float:
        return NAMES + BARS * max(0.0, math.log10(value) - low) / (high - low)

    height = ROW * (len(rows) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title><style>{STYLE}</style>'
    ]
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{ROW}" y2="{height}"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{ROW - 9}" text-anchor="middle">{10.0**power:,g}</text>'
        )
    for at, result in enumerate(rows):
        parts += _row(result, ROW * (at + 1), x)
    return "".join([*parts, "</svg>"])


def _row(result: Result, top: int, x: object) -> list[str]:
    assert callable(x)
    assert result.median is not None
    assert result.interval is not None
    middle, end = top + ROW / 2, x(result.median)
    low, high = (x(each) if each > 0 else NAMES for each in result.interval)
    text = f"{number(result.median)} ({interval(result)})"
    return [
        f'<text x="{NAMES - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(result.name)}</text>',
        f'<rect class="bar" x="{NAMES}" y="{top + 4}" width="{max(1.0, end - NAMES):.1f}" '
        f'height="{ROW - 8}"/>',
        f'<line class="span" x1="{low:.1f}" x2="{high:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>',
        f'<text x="{max(end, high) + 6:.1f}" y="{middle + 4:.1f}">{escape(text)}</text>',
    ]
