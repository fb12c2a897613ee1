"""How far a result could differ had other images been photographed: 95 % intervals.

The bootstrap draws as many images again as there are, with replacement, a thousand times, and takes
the middle 95 % of what comes out (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993,
chapter 13). Two models are compared on the same draws, so that what is hard for both cancels out.
Of a rate near 0 the bootstrap knows nothing (0 of n gives 0 in every draw): that is Wilson's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 1000
COVERAGE = 0.95
NORMAL_QUANTILE = 1.959964
"""Of the standard normal distribution, at (1 + COVERAGE) / 2."""

Draws = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """From ``low`` to ``high``."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.4f} to {self.high:.4f}"


class Bootstrap:
    """The same draws of a split's images for every statistic.

    Args:
        images: N, how many there are.
        resamples: R, how often they are drawn again.
        seed: Of the draws; on one version of NumPy they are always the same.
    """

    def __init__(self, images: int, resamples: int = RESAMPLES, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._weights = np.empty((resamples, images), np.float32)
        """``(R, N)``: how often each draw holds each image."""
        for weights in self._weights:
            weights[:] = np.bincount(rng.integers(images, size=images), minlength=images)

    def means(self, values: npt.ArrayLike, among: npt.ArrayLike | None = None) -> Draws:
        """``(R,)``: the mean of a value per image in each draw.

        Args:
            values: ``(N,)``.
            among: ``(N,)`` bool: the images that count; by default all. NaN for a draw without any.
        """
        value = np.asarray(values, np.float64)
        counts = np.ones(len(value)) if among is None else np.asarray(among, np.float64)
        totals = self._weights @ counts
        with np.errstate(invalid="ignore"):
            return np.asarray(self._weights @ (value * counts) / totals)

    def scores(self, labels: Integers, predictions: Integers) -> dict[str, Draws]:
        """``oa``, ``mf1`` and ``miou`` of each draw, as :func:`train.scores.metrics.scores` defines them.

        Args:
            labels: ``(N,)`` true classes (or groups of them), from 0.
            predictions: ``(N,)`` predicted ones.
        """
        classes = int(max(labels.max(), predictions.max())) + 1
        one_hot = np.eye(classes, dtype=np.float32)
        right = labels == predictions
        # Counts stay below 2**24, so float32 holds them exactly.
        support = self._weights @ one_hot[labels]
        predicted = self._weights @ one_hot[predictions]
        hits = self._weights[:, right] @ one_hot[labels[right]]
        union = support + predicted - hits
        occurs = union > 0
        occurring = occurs.sum(1)
        with np.errstate(invalid="ignore"):
            iou = np.where(occurs, hits / union, 0)
            f1 = np.where(occurs, 2 * hits / (union + hits), 0)
        return {
            "oa": hits.sum(1, dtype=np.float64) / len(labels),
            "mf1": f1.sum(1, dtype=np.float64) / occurring,
            "miou": iou.sum(1, dtype=np.float64) / occurring,
        }


def interval(draws: Draws) -> Interval:
    """The middle 95 % of what a bootstrap drew; draws that are NaN do not count."""
    low, high = np.nanquantile(draws, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(float(low), float(high))


def rate_interval(hits: int, of: int) -> Interval:
    """Of a rate, also one of 0 or 1: Wilson, "Probable inference", JASA 22 (1927).

    Raises:
        ValueError: There is nothing to take a rate of.
    """
    if not 0 <= hits <= of or of == 0:
        raise ValueError(f"{hits} of {of} is no rate")
    squared = NORMAL_QUANTILE**2
    centre = (hits + squared / 2) / (of + squared)
    half = NORMAL_QUANTILE * math.sqrt(hits * (of - hits) / of + squared / 4) / (of + squared)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))
