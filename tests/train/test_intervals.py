"""Bootstrap and Wilson intervals: equal to the plain way of computing them, and of the right width."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from train.scores.intervals import Bootstrap, Interval, interval, rate_interval
from train.scores.metrics import scores
from train.scores.outputs import Outputs


def drawn_images(images: int, resamples: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(images, size=images) for _ in range(resamples)]


def test_scores_of_each_draw_equal_those_of_the_images_drawn(rng: np.random.Generator) -> None:
    labels = rng.integers(5, size=60)
    predictions = np.where(rng.random(60) < 0.6, labels, rng.integers(1, 6, size=60))
    drawn = Bootstrap(60, resamples=40, seed=1).scores(labels, predictions)
    for at, chosen in enumerate(drawn_images(60, 40, seed=1)):
        logits = torch.eye(6)[predictions[chosen]]
        confusion = Outputs(logits, torch.from_numpy(labels[chosen]), torch.zeros(0)).confusion
        expected = scores(confusion).as_dict()
        assert {name: float(values[at]) for name, values in drawn.items()} == pytest.approx(
            expected, abs=1e-6
        )


def test_means_of_each_draw_equal_those_of_the_images_drawn(rng: np.random.Generator) -> None:
    values, among = rng.normal(size=30), rng.random(30) < 0.5
    bootstrap = Bootstrap(30, resamples=20, seed=2)
    for at, chosen in enumerate(drawn_images(30, 20, seed=2)):
        assert bootstrap.means(values)[at] == pytest.approx(values[chosen].mean())
        part = chosen[among[chosen]]
        assert bootstrap.means(values, among)[at] == pytest.approx(values[part].mean())


def test_a_draw_without_any_counted_image_is_left_out() -> None:
    draws = Bootstrap(3).means([5.0, 1.0, 1.0], among=[True, False, False])
    assert np.isnan(draws).any()
    assert interval(draws) == Interval(5.0, 5.0)


def test_the_interval_of_a_mean_is_about_that_of_the_normal_distribution(
    rng: np.random.Generator,
) -> None:
    values = rng.normal(size=400)
    found = interval(Bootstrap(400, resamples=4000).means(values))
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_equal_seeds_give_equal_draws() -> None:
    values = np.arange(20.0)
    first, again, other = (Bootstrap(20, 50, seed).means(values) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    # Brown, Cai, DasGupta, "Interval estimation for a binomial proportion" (2001), eq. 4, by hand.
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (1, 1000, 0.00018, 0.00564)],
)  # fmt: skip
def test_intervals_of_rates(hits: int, of: int, low: float, high: float) -> None:
    found = rate_interval(hits, of)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.low <= hits / of <= found.high


@pytest.mark.parametrize(("hits", "of"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_rate_is_refused(hits: int, of: int) -> None:
    with pytest.raises(ValueError, match=f"{hits} of {of} is no rate"):
        rate_interval(hits, of)
