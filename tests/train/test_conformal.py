"""Prediction sets hold the true class as often as was asked for, whatever the model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.scores.conformal import draws_for, prediction_sets, quantile, true_scores
from train.scores.outputs import Outputs
from train.studies.conformal_resplits import resplits

HAND = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)


def draw(seed: int, images: int, classes: int = 5, sharpness: float = 1.0) -> Outputs:
    """Of a model that is as sure as it may be, times ``sharpness``."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return Outputs(sharpness * logits, labels, torch.arange(images))


def uniform(seed: int, count: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(count))


@pytest.mark.parametrize(("label", "expected"), [(0, 0.2), (1, 0.88), (2, 0.62)])
def test_a_score_is_all_that_is_more_probable_and_a_share_of_its_own(
    label: int, expected: float
) -> None:
    found = true_scores(HAND, torch.tensor([label]), torch.tensor([0.4], dtype=torch.float64))
    assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("threshold", "members"),
    [(0.1, [0, 0, 0]), (0.2, [1, 0, 0]), (0.7, [1, 0, 1]), (0.9, [1, 1, 1])],
)
def test_a_set_holds_the_classes_up_to_the_quantile(threshold: float, members: list[int]) -> None:
    calibration = torch.full((9,), threshold + 1e-12, dtype=torch.float64)
    draws = torch.tensor([0.4], dtype=torch.float64)
    assert prediction_sets(HAND, draws, calibration, 0.9).int().tolist() == [members]


@given(seed=st.integers(0, 10**6), coverage=st.floats(0.05, 0.95))
def test_a_set_holds_with_a_class_all_that_are_more_probable(seed: int, coverage: float) -> None:
    outputs = draw(seed, 60)
    probabilities = outputs.probabilities()
    calibration = true_scores(probabilities, outputs.labels, uniform(seed, 60))
    sets = prediction_sets(probabilities, uniform(seed + 1, 60), calibration, coverage)
    order = probabilities.argsort(1, descending=True)
    members = sets.gather(1, order).int()
    assert (members.diff(dim=1) <= 0).all()


@given(seed=st.integers(0, 10**6))
def test_more_coverage_makes_no_set_smaller(seed: int) -> None:
    outputs = draw(seed, 60)
    probabilities, draws = outputs.probabilities(), uniform(seed, 60)
    calibration = true_scores(probabilities, outputs.labels, draws)
    sizes = [
        prediction_sets(probabilities, draws, calibration, each).sum(1) for each in (0.5, 0.8, 0.9)
    ]
    assert (sizes[0] <= sizes[1]).all()
    assert (sizes[1] <= sizes[2]).all()


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_coverage_is_what_was_asked_for_however_wrong_the_model_is(
    sharpness: float, coverage: float
) -> None:
    found = resplits(draw(1, 400, sharpness=sharpness), 200, coverage, 60, seed=0)
    assert coverage - 0.012 < np.mean(found["coverage"]) < coverage + 0.02


def test_a_model_that_is_sure_and_right_gets_empty_sets() -> None:
    labels = torch.arange(5).repeat(40)
    sure = Outputs(20 * torch.eye(5)[labels], labels, labels)
    found = resplits(sure, 100, 0.9, 20, seed=0)
    assert np.mean(found["empty"]) == pytest.approx(0.1, abs=0.03)
    assert np.mean(found["coverage"]) == pytest.approx(1 - np.mean(found["empty"]))


def test_re_splits_come_again_with_their_seed() -> None:
    pool = draw(2, 100)
    first = resplits(pool, 50, 0.9, 3, seed=0)
    assert first == resplits(pool, 50, 0.9, 3, seed=0)
    assert first != resplits(pool, 50, 0.9, 3, seed=1)


@pytest.mark.parametrize(
    ("count", "coverage", "expected"), [(9, 0.9, 8.0), (10, 0.9, 9.0), (19, 0.5, 9.0), (8, 0.9, math.inf)]
)  # fmt: skip
def test_the_quantile_counts_the_photograph_that_is_to_come(
    count: int, coverage: float, expected: float
) -> None:
    assert quantile(torch.arange(float(count)), coverage) == expected


def test_a_photograph_has_always_the_same_draw_and_another_photograph_another() -> None:
    images = torch.randint(256, (300, 3, 4, 4), dtype=torch.uint8)
    strided = images.contiguous(memory_format=torch.channels_last)
    draws = draws_for(images)
    assert torch.equal(draws, draws_for(strided))
    assert torch.equal(draws[7:9], draws_for(images[7:9]))
    assert len(draws.unique()) == 300
    assert 0.4 < float(draws.mean()) < 0.6
    assert 0 <= float(draws.min()) < 0.05 < 0.95 < float(draws.max()) < 1
