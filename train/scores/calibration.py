"""How far probabilities can be believed, and one number that mends most of it.

Temperature scaling divides all logits by one temperature, fitted on validation images; it changes
no prediction. A few hundred images say little about it, so the fit is drawn towards 1. Expected calibration error (ECE) compares confidence with accuracy in equal bins of
confidence. Both: Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from train.scores.outputs import Outputs

BINS = 15
"""Of confidence, equally wide: the number that Guo et al. use."""
LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are looked at. Where no validation image is wrong, the best one would be 0."""
WELL_CALIBRATED = 200
"""Images that speak for a temperature of 1, whatever val says; they matter only where val is small. There
the likeliest temperature made other images less likely in one re-split of ten (docs/results.md)."""
HALVINGS = 25
"""Of that range: the temperature is exact to a millionth."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Images whose confidence (the highest probability) lies in ``(low, high]``."""

    low: float
    high: float
    images: int
    confidence: float
    """Mean of the images; 0 without any."""
    accuracy: float
    """Share of them that are right; 0 without any."""


def negative_log_likelihood(outputs: Outputs, temperature: float = 1.0) -> float:
    """Mean of -log(probability of the true class) [nats]; the cross entropy."""
    return float(cross_entropy(outputs.logits.double() / temperature, outputs.labels))


def fit_temperature(outputs: Outputs, well_calibrated: int = WELL_CALIBRATED) -> float:
    """The temperature with the lowest negative log likelihood, within LOWEST and HIGHEST.

    Beside the N images count further ones with the same logits, whose labels come as often as the
    model says: of them alone 1 would be best. The likelihood stays convex in b = 1 / temperature. Its
    derivative is the mean over images of (expected logit under b) - (logit of the true class, or of
    the class that the model expects); halving finds where that becomes positive.

    Args:
        outputs: Of val.
        well_calibrated: How many images speak for 1; with 0 it is the likeliest temperature.
    """
    logits = outputs.logits.double()
    true = logits.gather(1, outputs.labels[:, None]).mean()
    expected_by_model = (logits.softmax(1) * logits).sum(1).mean()
    images = len(outputs)
    wanted = (images * true + well_calibrated * expected_by_model) / (images + well_calibrated)

    def rises(inverse: float) -> bool:
        expected = ((logits * inverse).softmax(1) * logits).sum(1).mean()
        return bool(expected > wanted)

    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if rises(middle) else (middle, high)
    return 1 / high


def reliability(outputs: Outputs, temperature: float = 1.0, bins: int = BINS) -> list[Bin]:
    """Confidence against accuracy, bin by bin: what a reliability diagram shows."""
    confidence, predictions = outputs.probabilities(temperature).max(1)
    right = (predictions == outputs.labels).double()
    at = (confidence * bins).ceil().long().clamp(1, bins) - 1
    images, confidences, rights = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, at, values)
        for values in (torch.ones_like(right), confidence, right)
    )
    return [
        Bin(
            low=number / bins,
            high=(number + 1) / bins,
            images=int(count),
            confidence=float(total / count) if count else 0.0,
            accuracy=float(hits / count) if count else 0.0,
        )
        for number, (count, total, hits) in enumerate(zip(images, confidences, rights, strict=True))
    ]


def calibration_error(bins: list[Bin]) -> float:
    """ECE: mean distance between confidence and accuracy of the bins, weighted by their images."""
    images = sum(each.images for each in bins)
    return sum(each.images * abs(each.confidence - each.accuracy) for each in bins) / images
