"""What a model said about each image of a split: the raw material of everything but three scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Outputs:
    """Of a split's N images, in the order in which they were shown; on the CPU."""

    logits: torch.Tensor
    """``(N, K)`` float32."""
    labels: torch.Tensor
    """``(N,)`` int64."""
    ids: torch.Tensor
    """``(N,)`` int64: rows of the split's sample table."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def predictions(self) -> torch.Tensor:
        """``(N,)`` int64: the class with the highest logit."""
        return self.logits.argmax(1)

    @property
    def confusion(self) -> torch.Tensor:
        """``(K, K)`` int64, rows true, columns predicted."""
        return confusion_of(self.labels, self.predictions, self.logits.shape[1])

    def probabilities(self, temperature: float = 1.0) -> torch.Tensor:
        """``(N, K)`` float64, rows add up to 1.

        Args:
            temperature: What the logits are divided by (:mod:`train.scores.calibration`).
        """
        return (self.logits.double() / temperature).softmax(1)


def confusion_of(labels: torch.Tensor, predictions: torch.Tensor, classes: int) -> torch.Tensor:
    """``(K, K)`` int64, rows true: counts of ``(N,)`` true and predicted classes."""
    cells = labels * classes + predictions
    return cells.bincount(minlength=classes * classes).reshape(classes, classes)


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of consecutive batches, on the CPU."""
    return Outputs(
        torch.cat([each.logits for each in parts]).cpu(),
        torch.cat([each.labels for each in parts]).cpu(),
        torch.cat([each.ids for each in parts]).cpu(),
    )
