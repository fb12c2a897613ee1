"""Curves of a study, drawn with OpenCV as the other pictures of a run (train/runs/figures.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from train.runs.figures import Picture
from train.scores.intervals import Interval

WIDTH, HEIGHT = 760, 480
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 20, 50
"""Margins [px]; names of the curves stand in the right one."""
COLOURS = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233),
)  # fmt: skip
"""Told apart by colour-blind people, too: Okabe & Ito, "Color Universal Design" (2008)."""
GREY, BLACK = (215, 215, 215), (0, 0, 0)
TICKS = 5
"""Of an axis, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    intervals: Sequence[Interval] = ()
    """Of each y; none, or as many. Points are marked where there are some."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to pixels."""

    low: float
    high: float
    first: int
    """Pixel of ``low``."""
    last: int

    def __call__(self, value: float) -> int:
        return round(
            self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)
        )


def line_chart(curves: Sequence[Curve], *, x_label: str, y_label: str) -> Picture:
    """A picture of curves, ``(HEIGHT, WIDTH, 3)`` uint8 RGB.

    Args:
        curves: At least one, of at least one point each; NaN is left out.
        x_label: Under the horizontal axis.
        y_label: Above the vertical axis.
    """
    xs = [value for each in curves for value in each.x]
    ys = [value for each in curves for value in each.y if not math.isnan(value)]
    ys += [end for each in curves for span in each.intervals for end in (span.low, span.high)]
    across = _Axis(*_padded(xs), LEFT, WIDTH - RIGHT)
    up = _Axis(*_padded(ys), HEIGHT - BOTTOM, TOP + 20)
    picture = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    for value in _ticks(across.low, across.high):
        at = across(value)
        cv2.line(picture, (at, up.last), (at, up.first), GREY)
        _write(picture, f"{value:g}", at - 10, up.first + 18)
    for value in _ticks(up.low, up.high):
        at = up(value)
        cv2.line(picture, (across.first, at), (across.last, at), GREY)
        _write(picture, f"{value:g}", LEFT - 55, at + 4)
    _write(picture, x_label, LEFT, HEIGHT - 12)
    _write(picture, y_label, LEFT, TOP + 4)
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        _draw(picture, curve, across, up, colour)
        _write(picture, curve.name, WIDTH - RIGHT + 20, TOP + 40 + 20 * number, colour)
    return picture


def _draw(
    picture: Picture, curve: Curve, across: _Axis, up: _Axis, colour: tuple[int, int, int]
) -> None:
    points = [
        (across(x), up(y)) for x, y in zip(curve.x, curve.y, strict=True) if not math.isnan(y)
    ]
    line = np.array(points, np.int32).reshape(-1, 1, 2)
    cv2.polylines(picture, [line], isClosed=False, color=colour, thickness=2, lineType=cv2.LINE_AA)
    for x, span in zip(curve.x, curve.intervals, strict=bool(curve.intervals)):
        if not (math.isnan(span.low) or math.isnan(span.high)):
            cv2.line(picture, (across(x), up(span.low)), (across(x), up(span.high)), colour)
    for point in points if curve.intervals or len(points) == 1 else ():
        cv2.circle(picture, point, 4, colour, cv2.FILLED, cv2.LINE_AA)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """A range with a little room around what is drawn."""
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within a range: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _write(
    picture: Picture, text: str, x: int, baseline: int, colour: tuple[int, int, int] = BLACK
) -> None:
    cv2.putText(
        picture, text, (x, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA
    )
