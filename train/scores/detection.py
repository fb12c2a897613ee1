"""How well scores tell known from unknown photographs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.scores.intervals import RESAMPLES, Interval, interval

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Of a score, on known and unknown photographs; intervals are 95 %, bootstrap over both."""

    auroc: float
    """Probability that a known photograph has the higher score of a random pair."""
    auroc_interval: Interval
    fpr: float
    """Share of the unknown that pass where ``recall`` of the known do; false positive rate."""
    fpr_interval: Interval


def detection(known: Scores, unknown: Scores, recall: float, seed: int = 0) -> Detection:
    """Compare the scores of ``(N,)`` known and ``(M,)`` unknown photographs.

    Args:
        known: Higher is better known.
        unknown: The same score.
        recall: At which the false positive rate is taken.
        seed: Of the bootstrap.
    """
    known, unknown = np.sort(known), np.sort(unknown)
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [
            _rates(known, unknown, _counts(rng, len(known)), _counts(rng, len(unknown)), recall)
            for _ in range(RESAMPLES)
        ]
    )
    plain = _rates(known, unknown, np.ones(len(known)), np.ones(len(unknown)), recall)
    return Detection(
        auroc=plain[0],
        auroc_interval=interval(drawn[:, 0]),
        fpr=plain[1],
        fpr_interval=interval(drawn[:, 1]),
    )


def auroc(known: Scores, unknown: Scores) -> float:
    """Probability that a known photograph has the higher score of a random pair; a tie is half."""
    known, unknown = np.sort(known), np.sort(unknown)
    return _rates(known, unknown, np.ones(len(known)), np.ones(len(unknown)), 1.0)[0]


def _counts(rng: np.random.Generator, size: int) -> Scores:
    """How often each of so many is drawn, with replacement."""
    return np.bincount(rng.integers(size, size=size), minlength=size).astype(np.float64)


def _rates(
    known: Scores, unknown: Scores, of_known: Scores, of_unknown: Scores, recall: float
) -> tuple[float, float]:
    """AUROC and false positive rate of sorted scores, each as often as it counts; a tie is half."""
    below = np.concatenate([[0.0], of_unknown.cumsum()])
    left, right = (np.searchsorted(unknown, known, side) for side in ("left", "right"))
    total = below[-1]
    auroc = float(of_known @ (below[left] + below[right]) / 2 / of_known.sum() / total)
    # The highest threshold that lets enough pass: those from it on count for at least the recall.
    passing = of_known[::-1].cumsum()
    at = len(known) - 1 - int(np.searchsorted(passing, recall * of_known.sum() - 1e-9))
    return auroc, float((total - below[left[at]]) / total)


def roc_curve(known: Scores, unknown: Scores, points: int = 101) -> tuple[list[float], list[float]]:
    """False positive rate, and share of the known that pass, over evenly spaced shares of these."""
    recalls = np.linspace(0, 1, points)
    thresholds = np.quantile(known, 1 - recalls)
    return [float((unknown >= each).mean()) for each in thresholds], recalls.tolist()
