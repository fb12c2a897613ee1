"""Pairs of blocks measured one right after the other: which side is faster, if that can be told.

The logarithm of each pair's ratio is free of what slows both blocks alike; their trimmed mean is
robust against the block that something else disturbed, and its bootstrap interval (99 %) decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVEL = 0.99
"""Of 100 comparisons of a thing with itself, one is decided by chance, before :data:`LEAST`."""
LEAST = 0.02
"""A difference below it is never decided: where memory happens to lie makes as much between two
processes of the same code, and more pairs do not help against that."""
NARROW = 0.04
"""Half an interval that tells a tenth from nothing with certainty to spare."""
TRIM = 0.25
"""Share of the pairs left out on either side of the mean."""
DRAWS = 4000
FASTER, SLOWER, UNDECIDED = "faster", "slower", "undecided"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Speed of one side over that of the other."""

    ratio: float
    low: float
    high: float
    """Ends of the interval of the ratio."""

    @property
    def verdict(self) -> str:
        """Whether the interval lies beyond :data:`LEAST` on one side of 1."""
        if self.low > 1 + LEAST:
            return FASTER
        if self.high < 1 - LEAST:
            return SLOWER
        return UNDECIDED

    @property
    def is_narrow(self) -> bool:
        """Whether more pairs would change little."""
        return math.log(self.high / self.low) / 2 <= NARROW

    def __str__(self) -> str:
        return f"{self.verdict}: {self.ratio:.3f}x ({self.low:.3f}..{self.high:.3f})"


def compare_pairs(new: Sequence[float], base: Sequence[float]) -> Comparison:
    """Compare rates that were measured in pairs.

    Args:
        new: Rates of one side, above 0.
        base: Rates of the other, each measured next to that of the same place in ``new``.
    """
    logs = np.log(np.asarray(new, np.float64) / np.asarray(base, np.float64))
    drawn = np.random.default_rng(0).integers(len(logs), size=(DRAWS, len(logs)))
    means = _trimmed_means(logs[drawn])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    centre = float(_trimmed_means(logs[None])[0])
    return Comparison(math.exp(centre), math.exp(float(low)), math.exp(float(high)))


def _trimmed_means(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``(N, K) -> (N,)``."""
    cut = int(TRIM * rows.shape[1])
    middle = np.sort(rows, axis=1)[:, cut : rows.shape[1] - cut]
    return np.asarray(middle.mean(axis=1), np.float64)
