"""Scores against torchmetrics, worked examples, and what must hold for any matrix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
)

from train.scores.metrics import absent_classes, scores

K = 6
matrices = st.integers(1, 5).flatmap(
    lambda side: st.lists(
        st.lists(st.integers(0, 20), min_size=side, max_size=side), min_size=side, max_size=side
    ).map(torch.tensor)
)


def draw(classes: list[int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.tensor(classes)[torch.randint(len(classes), (300,), generator=generator)]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("in_targets", "in_predictions"),
    [
        ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
        ([0, 1, 3, 4], [0, 1, 3, 4]),  # two classes occur nowhere
        ([0, 1, 2, 3, 4, 5], [1, 2, 3]),  # three are never predicted
        ([1, 2, 3], [0, 1, 2, 3, 4, 5]),  # three are predicted but have no image
        ([0, 1, 2], [2, 3, 4]),  # all of that at once
        ([2], [2]),
        ([2], [3]),
    ],
)
def test_scores_equal_torchmetrics_whichever_classes_are_absent(
    in_targets: list[int], in_predictions: list[int], seed: int
) -> None:
    # torchmetrics, too, leaves out of its macro means the classes without target and prediction,
    # and counts as 0 those with only one of the two.
    targets, predictions = draw(in_targets, seed), draw(in_predictions, seed + 100)
    ours = scores(MulticlassConfusionMatrix(K)(predictions, targets))
    theirs = {
        "oa": MulticlassAccuracy(K, average="micro")(predictions, targets),
        "mf1": MulticlassF1Score(K, average="macro")(predictions, targets),
        "miou": MulticlassJaccardIndex(K, average="macro")(predictions, targets),
    }
    assert ours.as_dict() == pytest.approx(
        {name: float(value) for name, value in theirs.items()}, abs=1e-6
    )


def test_scores_of_a_matrix_worked_by_hand() -> None:
    result = scores(torch.tensor([[3, 1], [2, 4]]))
    assert result.oa == pytest.approx(7 / 10)
    assert result.miou == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert result.mf1 == pytest.approx((6 / 9 + 8 / 11) / 2)


def test_rows_are_the_true_classes() -> None:
    # Class 0 has all images, class 1 none: whoever reads columns as truth counts none for class 0.
    confusion = MulticlassConfusionMatrix(2)(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 0]))
    assert confusion.tolist() == [[1, 2], [0, 0]]
    assert absent_classes(confusion) == 1
    assert scores(confusion).miou == pytest.approx((1 / 3 + 0) / 2)


def test_an_empty_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="no image was evaluated"):
        scores(torch.zeros(3, 3, dtype=torch.int64))


@given(matrices)
def test_scores_lie_in_0_to_1_and_miou_is_the_strictest(confusion: torch.Tensor) -> None:
    if confusion.sum() == 0:
        return
    result = scores(confusion)
    assert 0 <= result.miou <= result.mf1 <= 1
    assert 0 <= result.oa <= 1
    off_diagonal = confusion.sum() - confusion.diagonal().sum()
    assert (result.miou == 1) == (result.oa == 1) == (off_diagonal == 0)


@given(matrices, st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_the_order_of_classes(confusion: torch.Tensor, random) -> None:
    if confusion.sum() == 0:
        return
    order = list(range(len(confusion)))
    random.shuffle(order)
    turned = confusion[order][:, order]
    assert scores(turned).as_dict() == pytest.approx(scores(confusion).as_dict())


@given(matrices)
def test_a_class_that_occurs_nowhere_changes_no_score(confusion: torch.Tensor) -> None:
    if confusion.sum() == 0:
        return
    wider = torch.nn.functional.pad(confusion, (0, 1, 0, 1))
    assert scores(wider) == scores(confusion)
    assert absent_classes(wider) == absent_classes(confusion) + 1


def test_large_counts_are_not_rounded() -> None:
    # float32 has 24 bits: it cannot tell 2**25 + 1 from 2**25.
    count = 2**25
    assert scores(torch.tensor([[count, 1], [0, count]])).oa == 2 * count / (2 * count + 1)
