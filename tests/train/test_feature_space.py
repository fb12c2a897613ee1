"""Where new classes are compared: nuisances that known classes show count less."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train.engine.logistic import Samples
from train.novelty.episodes import Episodes
from train.novelty.feature_space import roots, space_of, without
from train.novelty.fewshots import METHODS, accuracies


def clouds(classes: range, each: int, seed: int) -> Samples:
    """Classes around directions at right angles, and three loud features that say nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes.start, classes.stop).repeat_interleave(each)
    features = 2 * torch.eye(24)[labels] + 4
    features += 0.3 * torch.randn(len(labels), 24, generator=generator)
    features[:, -3:] += 40 * torch.rand(len(labels), 3, generator=generator)
    return Samples(features, labels)


@pytest.mark.parametrize("method", METHODS)
def test_what_varies_within_known_classes_misleads_less_about_new_ones(method: str) -> None:
    known, new = clouds(range(10), 40, 0), clouds(range(10, 20), 40, 1)
    space = space_of(known)
    plain, learned = (
        np.mean(accuracies(Episodes(Samples(features, new.labels), 5, 15), 5, 8)[method])
        for features in (new.features, space(new.features))
    )
    assert plain < 0.8
    assert learned > 0.95


def test_within_known_classes_features_have_about_unit_covariance() -> None:
    known = clouds(range(10), 400, 0)
    there = space_of(known)(known.features)
    assert there.mean(0).abs().max() < 1e-3
    within = torch.cat(
        [there[known.labels == c] - there[known.labels == c].mean(0) for c in range(10)]
    )
    covariance = within.T @ within / len(within)
    assert (covariance - torch.eye(24)).abs().max() < 0.1


def test_fewer_photographs_than_features_are_enough() -> None:
    known = clouds(range(3), 2, 0)
    assert torch.isfinite(space_of(known)(clouds(range(5, 7), 3, 1).features)).all()
    assert torch.isfinite(space_of(Samples(known.features[:1], known.labels[:1])).whitening).all()


def test_roots_keep_their_sign() -> None:
    values = torch.tensor([[-4.0, 0.0, 9.0]])
    assert roots(values).tolist() == [[-2.0, 0.0, 3.0]]


def test_new_classes_have_no_say_in_the_space() -> None:
    samples = clouds(range(4), 5, 0)
    kept = without(samples, torch.tensor([1, 3, 3]))
    assert kept.labels.unique().tolist() == [0, 2]
    assert torch.equal(
        kept.features, samples.features[(samples.labels == 0) | (samples.labels == 2)]
    )
