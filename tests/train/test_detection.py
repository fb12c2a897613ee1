"""Scores of unknown species: oriented alike, as the libraries have them, and kept with a class more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors

from train.scores.detection import auroc, detection
from train.scores.detection import roc_curve as our_curve
from train.scores.unknown import (
    NEIGHBOURS,
    SCORE_OF,
    SCORES,
    UnknownDetector,
    remember,
    shrunk_covariance,
    threshold_at,
)

CLASSES, DIMENSIONS = 4, 12


def draw(seed: int, each: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of CLASSES clouds, and their labels; dimensions differ in spread."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(each)
    noise = torch.randn(len(labels), DIMENSIONS, generator=generator)
    return 6 * torch.eye(DIMENSIONS)[labels] + noise * torch.linspace(0.3, 2, DIMENSIONS), labels


def logits_of(features: torch.Tensor) -> torch.Tensor:
    return features[:, :CLASSES]


def far(seed: int, count: int = 80) -> torch.Tensor:
    """Features of another class."""
    return 6 * torch.eye(DIMENSIONS)[[CLASSES + 1] * count] + 0.5 * torch.randn(
        count, DIMENSIONS, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("score", SCORES)
def test_a_photograph_of_another_class_scores_lower(score: str) -> None:
    remembered = remember(*draw(0))
    here, there = (
        SCORE_OF[score](logits_of(each), each, remembered).double().numpy()  # type: ignore[index]
        for each in (draw(1)[0], far(2))
    )
    assert auroc(here, there) > 0.95


def test_the_covariance_is_that_of_scikit_learn() -> None:
    features, _ = draw(3, each=5)
    for centred in (features - features.mean(0), features[:6] - features[:6].mean(0)):
        theirs = ledoit_wolf(centred.double().numpy(), assume_centered=True)[0]
        np.testing.assert_allclose(shrunk_covariance(centred).numpy(), theirs, rtol=1e-9)


def test_mahalanobis_is_the_distance_by_the_inverse_covariance() -> None:
    features, labels = draw(4)
    remembered = remember(features, labels)
    means = torch.stack([features[labels == each].mean(0) for each in range(CLASSES)])
    inverse = torch.linalg.inv(shrunk_covariance(features - means[labels]))
    apart = (far(5)[:, None] - means).double()
    expected = torch.einsum("ncd,de,nce->nc", apart, inverse, apart).amin(1)
    found = SCORE_OF["mahalanobis"](far(5), far(5), remembered)
    torch.testing.assert_close(found.double(), -expected, rtol=1e-3, atol=1e-3)


def test_fewer_photographs_than_dimensions_are_enough() -> None:
    features, labels = draw(6, each=2)
    remembered = remember(features, labels)
    assert SCORE_OF["mahalanobis"](features, features, remembered).isfinite().all()
    same = features[:1].repeat(3, 1)
    assert remember(same, labels[:3]).whitening.isfinite().all()


def test_neighbours_are_those_of_scikit_learn() -> None:
    features, labels = draw(7)
    unit = torch.nn.functional.normalize
    theirs = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(unit(features).numpy())
    distances, _ = theirs.kneighbors(unit(far(8)).numpy())
    found = SCORE_OF["neighbours"](far(8), far(8), remember(features, labels))
    np.testing.assert_allclose(-found.numpy(), distances[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_auroc_and_false_positive_rate_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known, unknown = rng.normal(1, 1, 90).round(1), rng.normal(0, 1, 40).round(1)  # with ties
    truth, values = np.repeat([1, 0], [90, 40]), np.concatenate([known, unknown])
    found = detection(known, unknown, recall=0.9)
    assert found.auroc == auroc(known, unknown) == pytest.approx(roc_auc_score(truth, values))
    false, true, _ = roc_curve(truth, values, drop_intermediate=False)
    assert found.fpr == pytest.approx(false[np.argmax(true >= 0.9)])
    assert found.auroc_interval.low < found.auroc < found.auroc_interval.high
    assert found.fpr_interval.low <= found.fpr <= found.fpr_interval.high


def test_the_interval_of_the_auroc_is_as_wide_as_other_photographs_make_it_differ() -> None:
    rng = np.random.default_rng(9)
    drawn = [auroc(rng.normal(1, 1, 60), rng.normal(0, 1, 40)) for _ in range(300)]
    span = detection(rng.normal(1, 1, 60), rng.normal(0, 1, 40), 0.95).auroc_interval
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert span.high - span.low == pytest.approx(high - low, rel=0.4)


def test_scores_that_tell_nothing_and_everything_apart() -> None:
    same, ahead = np.zeros(20), np.ones(20)
    assert auroc(same, same) == 0.5
    assert (detection(ahead, same, 0.95).auroc, detection(ahead, same, 0.95).fpr) == (1, 0)
    assert (detection(same, ahead, 0.95).auroc, detection(same, ahead, 0.95).fpr) == (0, 1)
    false, passed = our_curve(ahead, same)
    assert false[1:] == [0.0] * 100
    assert passed[0] == 0
    assert passed[-1] == 1


@pytest.mark.parametrize(
    ("recall", "expected"), [(0.95, 5.0), (0.9, 10.0), (0.56, 44.0), (0.001, 99.0)]
)
def test_the_threshold_lets_as_many_pass_as_were_asked_for(recall: float, expected: float) -> None:
    scores = torch.arange(100.0)
    assert threshold_at(scores, recall) == expected
    assert float((scores >= expected).double().mean()) >= recall


@pytest.mark.parametrize("score", ["mahalanobis", "neighbours"])
def test_an_enrolled_class_is_no_longer_unknown(score: str) -> None:
    remembered = remember(*draw(10))
    before = UnknownDetector(score=score, threshold=0.0, recall=0.95, known=remembered)  # type: ignore[arg-type]
    after = before.with_class(far(11, count=NEIGHBOURS))
    test, old = far(12), draw(13)[0]
    assert (after.scores(logits_of(test), test) > before.scores(logits_of(test), test)).all()
    known = before.scores(logits_of(old), old)
    assert float(after.scores(logits_of(test), test).median()) > float(known.quantile(0.05))
