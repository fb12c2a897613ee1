"""Intervals by the bootstrap: how far a median would move if the same blocks were drawn again.

Efron, "Bootstrap Methods: Another Look at the Jackknife" (1979); here the percentile interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEVEL = 0.95
DRAWS = 4000


def median_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Where the median lies in ``level`` of the resamples; the same for the same values.

    With up to five values this is their whole range: so few say no more.
    """
    if not values:
        raise ValueError("no values")
    drawn = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    medians = np.median(np.asarray(values, np.float64)[drawn], axis=1)
    tail = (1 - level) / 2
    # Of the values that occur, none between them: few repeats have few medians.
    low, high = np.quantile(medians, [tail, 1 - tail], method="nearest")
    return float(low), float(high)
