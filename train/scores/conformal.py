"""Sets of classes that hold the true one with a stated probability: adaptive prediction sets (APS).

Romano, Sesia & Candes, "Classification with Valid and Adaptive Coverage" (arXiv:2006.02544), randomised.
A class's score is the probability of all that are more probable, and a random share of its own. The set
holds the classes whose score is at most a quantile of the scores that the true classes of calibration
photographs have. For photographs of the same kind the coverage is what was asked for, whatever the
model; sets may be empty, most of all where a model is sure and right more often than was asked for.
"""

from __future__ import annotations

import hashlib
import math

import torch

Tensor = torch.Tensor


def true_scores(probabilities: Tensor, labels: Tensor, draws: Tensor) -> Tensor:
    """``(N,)`` float64 scores of the true classes, in [0, 1].

    Args:
        probabilities: ``(N, C)`` float64.
        labels: ``(N,)`` in [0, C).
        draws: ``(N,)`` uniform in [0, 1).
    """
    return _scores(probabilities, draws).gather(1, labels[:, None])[:, 0]


def prediction_sets(
    probabilities: Tensor, draws: Tensor, calibration: Tensor, coverage: float
) -> Tensor:
    """``(N, C)`` bool: the classes in the set of each photograph.

    Args:
        probabilities: ``(N, C)`` float64.
        draws: ``(N,)`` uniform in [0, 1).
        calibration: ``(n,)`` what :func:`true_scores` gave for photographs of the same kind.
        coverage: Probability with which a set is to hold the true class.
    """
    return _scores(probabilities, draws) <= quantile(calibration, coverage)


def quantile(calibration: Tensor, coverage: float) -> float:
    """The score that a further photograph stays below with the probability that was asked for.

    The ``ceil((n + 1) * coverage)``-th smallest of n; infinite where n is too small to say.
    """
    # A product such as 0.9 * 10 may come out a hair above the whole number that it is.
    place = math.ceil((len(calibration) + 1) * coverage - 1e-9)
    if place > len(calibration):
        return math.inf
    return float(calibration.sort().values[max(place, 1) - 1])


def draws_for(images: Tensor) -> Tensor:
    """``(N,)`` float64 uniform in [0, 1), a number of its own for each photograph and always the same.

    Args:
        images: ``(N, 3, S, S)`` uint8.
    """
    return torch.tensor([_draw(each) for each in images], dtype=torch.float64)


def _draw(image: Tensor) -> float:
    digest = hashlib.sha256(image.contiguous().numpy().data).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # as many bits as a double holds


def _scores(probabilities: Tensor, draws: Tensor) -> Tensor:
    """``(N, C)`` score of each class."""
    sorted_down, order = probabilities.sort(1, descending=True)
    more_probable = sorted_down.cumsum(1) - sorted_down
    return torch.empty_like(probabilities).scatter_(
        1, order, more_probable + draws[:, None] * sorted_down
    )
