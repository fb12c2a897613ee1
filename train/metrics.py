"""The three scores, from one confusion matrix.

With C the matrix (rows: true class, columns: predicted class) and, for a class c, TP = C[c, c],
FN = row sum - TP, FP = column sum - TP:

- OA, overall accuracy: sum of TP over all images (torchmetrics: accuracy, ``micro``);
- mF1: mean over classes of 2 TP / (2 TP + FP + FN) (torchmetrics: F1, ``macro``);
- mIoU: mean over classes of TP / (TP + FP + FN) (torchmetrics: Jaccard index, ``macro``).

The means run over the classes that occur in the targets or in the predictions.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True, slots=True)
class Scores:
    """Each in [0, 1]."""

    oa: float
    mf1: float
    miou: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"mIoU {self.miou:.4f}  mF1 {self.mf1:.4f}  OA {self.oa:.4f}"


def scores(confusion: torch.Tensor) -> Scores:
    """The three scores of a ``(K, K)`` integer confusion matrix, rows true, columns predicted.

    Raises:
        ValueError: The matrix is empty: nothing was evaluated.
    """
    counts = confusion.double().cpu()
    total = counts.sum()
    if total == 0:
        raise ValueError("no image was evaluated: the confusion matrix is empty")
    hits = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hits
    occurs = union > 0
    iou = hits[occurs] / union[occurs]
    f1 = 2 * hits[occurs] / (union[occurs] + hits[occurs])
    return Scores(oa=float(hits.sum() / total), mf1=float(f1.mean()), miou=float(iou.mean()))


def absent_classes(confusion: torch.Tensor) -> int:
    """How many classes no image has: the scores say nothing about them."""
    return int((confusion.sum(1) == 0).sum())
