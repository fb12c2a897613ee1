"""Scores of each class, groups and top-k against torchmetrics and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score, precision_recall_fscore_support, top_k_accuracy_score
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_jaccard_index,
    multiclass_precision,
    multiclass_recall,
)

from train.scores.metrics import class_scores, in_top, merged, scores

K = 7


def draw(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and predictions of up to 80 images; some classes have none, some are never said."""
    images = int(rng.integers(1, 80))
    labels = rng.choice(rng.choice(K, rng.integers(1, K + 1), replace=False), images)
    said = rng.choice(rng.choice(K, rng.integers(1, K + 1), replace=False), images)
    predictions = np.where(rng.random(images) < rng.random(), labels, said)
    return torch.from_numpy(labels), torch.from_numpy(predictions)


def check_against_others(matrices: int) -> None:
    rng = np.random.default_rng(3)
    absent = never_said = 0
    for _ in range(matrices):
        labels, predictions = draw(rng)
        confusion = multiclass_confusion_matrix(predictions, labels, K)
        ours, summary = class_scores(confusion), scores(confusion)
        theirs = precision_recall_fscore_support(
            labels, predictions, labels=range(K), zero_division=math.nan
        )
        for name, values in zip(("precision", "recall", "f1", "support"), theirs, strict=True):
            np.testing.assert_allclose(getattr(ours, name), values, atol=1e-6, err_msg=name)
        for name, function in (
            ("precision", multiclass_precision),
            ("recall", multiclass_recall),
            ("f1", multiclass_f1_score),
            ("iou", multiclass_jaccard_index),
        ):
            values = function(predictions, labels, K, average="none").double()  # 0 for 0 / 0
            mine = getattr(ours, name)
            np.testing.assert_allclose(mine.nan_to_num(0), values, atol=1e-6, err_msg=name)
        occurs = ours.iou.isfinite()
        np.testing.assert_allclose(
            ours.iou[occurs],
            jaccard_score(labels, predictions, labels=np.flatnonzero(occurs), average=None,
                          zero_division=0),
            atol=1e-6,
        )  # fmt: skip
        macro = {
            "oa": multiclass_accuracy(predictions, labels, K, average="micro"),
            "mf1": multiclass_f1_score(predictions, labels, K, average="macro"),
            "miou": multiclass_jaccard_index(predictions, labels, K, average="macro"),
        }
        assert summary.as_dict() == pytest.approx(
            {name: float(value) for name, value in macro.items()}, abs=1e-6
        )
        assert summary.miou == pytest.approx(float(ours.iou.nanmean()), abs=1e-12)
        absent += int((ours.support == 0).sum())
        never_said += int(((ours.predicted == 0) & (ours.support > 0)).sum())
    assert absent > matrices / 2
    assert never_said > matrices / 10


def test_scores_equal_torchmetrics_and_scikit_learn_on_random_matrices() -> None:
    check_against_others(50)


@pytest.mark.slow
def test_scores_equal_torchmetrics_and_scikit_learn_on_a_thousand_random_matrices() -> None:
    check_against_others(1000)


def test_what_is_zero_over_zero_is_not_a_number() -> None:
    ours = class_scores(torch.tensor([[2, 0, 0], [1, 0, 0], [0, 0, 0]]))
    assert ours.precision.tolist() == pytest.approx([2 / 3, math.nan, math.nan], nan_ok=True)
    assert ours.recall.tolist() == pytest.approx([1, 0, math.nan], nan_ok=True)
    assert ours.f1.tolist() == pytest.approx([4 / 5, 0, math.nan], nan_ok=True)
    assert ours.iou.tolist() == pytest.approx([2 / 3, 0, math.nan], nan_ok=True)
    assert ours.support.tolist() == [2, 1, 0]
    assert ours.predicted.tolist() == [3, 0, 0]


def test_merging_classes_equals_counting_with_merged_labels(rng: np.random.Generator) -> None:
    labels, predictions = draw(rng)
    groups = torch.tensor([0, 1, 0, 2, 1, 2, 2])
    confusion = multiclass_confusion_matrix(predictions, labels, K)
    expected = multiclass_confusion_matrix(groups[predictions], groups[labels], 3)
    assert torch.equal(merged(confusion, groups), expected)


@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_top_k_equals_scikit_learn(rng: np.random.Generator, k: int) -> None:
    logits, labels = rng.normal(size=(200, 9)), rng.integers(9, size=200)
    ours = in_top(torch.from_numpy(logits), torch.from_numpy(labels), k).double().mean()
    if k == 9:
        assert ours == 1
    else:
        assert ours == pytest.approx(top_k_accuracy_score(labels, logits, k=k, labels=range(9)))


def test_top_five_of_three_classes_is_every_image() -> None:
    assert in_top(torch.rand(4, 3), torch.tensor([0, 1, 2, 0]), 5).all()
