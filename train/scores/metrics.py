"""The three scores and those of each class, from one confusion matrix; top-k from logits.

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


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Of each class, ``(K,)`` float64 in [0, 1]; NaN where it is 0 / 0.

    So recall is NaN for a class without image, precision for one that is never predicted, F1 and
    IoU for one that is neither (scikit-learn: ``zero_division=nan``).
    """

    precision: torch.Tensor
    """TP / (TP + FP)."""
    recall: torch.Tensor
    """TP / (TP + FN)."""
    f1: torch.Tensor
    iou: torch.Tensor
    support: torch.Tensor
    """``(K,)`` int64, images of the class."""
    predicted: torch.Tensor
    """``(K,)`` int64, images that were taken for it."""


def class_scores(confusion: torch.Tensor) -> ClassScores:
    """Scores of each class of a ``(K, K)`` integer confusion matrix, rows true."""
    counts = confusion.double().cpu()
    hits, support, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    return ClassScores(
        precision=hits / predicted,
        recall=hits / support,
        f1=2 * hits / (support + predicted),
        iou=hits / (support + predicted - hits),
        support=support.long(),
        predicted=predicted.long(),
    )


def merged(confusion: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """A confusion matrix with classes put together: ``(K, K)`` -> ``(G, G)``.

    Args:
        confusion: Rows true, columns predicted.
        groups: ``(K,)`` int64, the group of each class, from 0 to G - 1.
    """
    size = int(groups.max()) + 1
    rows = confusion.new_zeros(size, confusion.shape[1]).index_add_(0, groups, confusion)
    return confusion.new_zeros(size, size).index_add_(1, groups, rows)


def in_top(logits: torch.Tensor, labels: torch.Tensor, k: int) -> torch.Tensor:
    """``(N,)`` bool: whether the true class is among the ``k`` with the highest logits."""
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(1)


def absent_classes(confusion: torch.Tensor) -> int:
    """How many classes no image has: the scores say nothing about them."""
    return int((confusion.sum(1) == 0).sum())
