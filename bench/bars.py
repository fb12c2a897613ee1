"""Bars of a terminal: rates that differ by powers of ten, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.result import number

WIDTH = 44
EIGHTHS = " ▏▎▍▌▋▊▉"
FULL = "█"


def log_bars(rows: Sequence[tuple[str, float]], width: int = WIDTH) -> list[str]:
    """A line for each name with a bar, after a line with the scale; none where there are no rows.

    Args:
        rows: Names and values above 0.
        width: Of the longest bar, in characters.
    """
    if not rows:
        return []
    low = math.floor(math.log10(min(value for _, value in rows)))
    high = max(low + 1, math.ceil(math.log10(max(value for _, value in rows))))
    names = max(len(name) for name, _ in rows)
    lines = [f"{'':{names}}  {_scale(low, high, width)}"]
    for name, value in rows:
        bar = _bar(width * (math.log10(value) - low) / (high - low))
        lines.append(f"{name:{names}}  {bar} {number(value)}")
    return lines


def _bar(length: float) -> str:
    """A bar of so many characters, to an eighth of one; never nothing."""
    eighths = max(1, round(8 * length))
    return FULL * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def _scale(low: int, high: int, width: int) -> str:
    """The powers of ten above where they lie."""
    line = ""
    for power in range(low, high + 1):
        at = round(width * (power - low) / (high - low))
        if at >= len(line):
            line = line.ljust(at) + f"{10.0**power:,g} "
    return line.rstrip()
