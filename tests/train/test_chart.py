"""The pictures of studies: every curve is there, in its colour, between the axes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from train.scores.intervals import Interval
from train.studies.chart import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Curve,
    _ticks,
    line_chart,
)


def pixels(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], number: int) -> int:
    """How many have the colour of a curve, in the part between the axes."""
    inside = picture[TOP : HEIGHT - BOTTOM + 5, LEFT - 5 : WIDTH - RIGHT + 5]
    return int((inside == COLOURS[number]).all(-1).sum())


def test_every_curve_is_drawn_in_its_colour_and_inside() -> None:
    curves = [
        Curve(name="a", x=[1, 5, 10], y=[0.2, 0.5, 0.9]),
        Curve(name="b", x=[1, 5, 10], y=[0.9, 0.4, 0.1], intervals=[Interval(0.0, 1.0)] * 3),
    ]
    picture = line_chart(curves, x_label="shots", y_label="accuracy")
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    for number in range(2):
        assert pixels(picture, number) > 100
    assert pixels(picture, 2) == 0


@pytest.mark.parametrize("y", [[0.5], [math.nan, 0.5], [0.5, 0.5, math.nan]])
def test_a_single_point_equal_values_and_what_is_not_a_number_are_drawn(y: list[float]) -> None:
    curve = Curve(name="one", x=list(range(len(y))), y=y)
    assert pixels(line_chart([curve], x_label="x", y_label="y"), 0) > 0


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-3, 12, [0, 5, 10]), (0.91, 0.99, [0.92, 0.94, 0.96, 0.98])],
)  # fmt: skip
def test_ticks_are_round_numbers_within_the_range(
    low: float, high: float, expected: list[float]
) -> None:
    assert _ticks(low, high) == pytest.approx(expected)
