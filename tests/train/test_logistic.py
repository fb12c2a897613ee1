"""The logistic regression is the minimum that it claims to be, on features as the network gives them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from train.engine.logistic import Head, LogisticRegression, Samples, importance_of

CLASSES, DIMENSIONS = 3, 5


def blobs(count: int, seed: int = 1, scale: float = 1.0) -> Samples:
    """Overlapping clouds, one a class; the features differ in mean and spread."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    features = (
        torch.randn(count, DIMENSIONS, generator=draw)
        + 1.5 * torch.eye(CLASSES, DIMENSIONS)[labels]
    )
    return Samples(scale * (features * torch.tensor([1.0, 10, 0.1, 3, 1]) + 7), labels)  # fmt: skip


def objective(head: Head, train: Samples, weights: torch.Tensor, penalty: float) -> torch.Tensor:
    losses = cross_entropy(head.logits(train.features), train.labels, reduction="none")
    std = train.features.std(0, correction=0)
    return (weights * losses).mean() + penalty / 2 * (head.weight * std).square().sum()


@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
def test_the_solution_has_no_gradient(penalty: float) -> None:
    train = blobs(90)
    weights = importance_of("csv", train.labels, torch.arange(90) % 4 + 1)
    found = LogisticRegression(train, weights, CLASSES).fit(penalty)
    head = Head(found.weight.double().requires_grad_(), found.bias.double().requires_grad_())
    double = Samples(train.features.double(), train.labels)
    gradients = torch.autograd.grad(
        objective(head, double, weights.double(), penalty), [head.weight, head.bias]
    )
    std = train.features.std(0, correction=0)
    assert (gradients[0] / std).abs().max() < 2e-3
    assert gradients[1].abs().max() < 1e-3


def test_the_path_leads_to_the_same_solution_as_a_fresh_start() -> None:
    train = blobs(60)
    even = torch.ones(60)
    path = LogisticRegression(train, even, CLASSES)
    path.fit(1.0)
    on_the_path = path.fit(1e-2)
    fresh = LogisticRegression(train, even, CLASSES).fit(1e-2)
    logits = [head.logits(train.features) for head in (on_the_path, fresh)]
    torch.testing.assert_close(logits[0], logits[1], atol=2e-2, rtol=0)


def test_a_sample_of_double_importance_counts_as_two() -> None:
    train = blobs(30)
    twice = Samples(
        torch.cat([train.features, train.features[:10]]),
        torch.cat([train.labels, train.labels[:10]]),
    )
    weights = importance_of("csv", train.labels, torch.where(torch.arange(30) < 10, 2, 1))
    # Features are scaled by the photographs as they are, each counted once.
    head = LogisticRegression(train, weights, CLASSES).fit(1e-2)
    even = torch.ones(40)
    loss = objective(head, train, weights, 0.0)
    same = objective(head, twice, even, 0.0)
    assert float(loss) == pytest.approx(float(same), rel=1e-5)


def test_held_out_samples_are_told_apart() -> None:
    train, test = blobs(300), blobs(300, seed=2)
    head = LogisticRegression(train, torch.ones(300), CLASSES).fit(1e-2)
    accuracy = (head.logits(test.features).argmax(1) == test.labels).float().mean()
    assert accuracy > 0.75


def test_a_feature_that_never_changes_does_no_harm() -> None:
    train = blobs(30)
    train.features[:, 1] = 4.0
    head = LogisticRegression(train, torch.ones(30), CLASSES).fit(1e-3)
    assert head.logits(train.features).isfinite().all()


def test_importance_follows_the_sampling() -> None:
    labels, repeats = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 2, 4])
    expected = {
        "natural": [1.0, 1, 1, 1],
        "csv": [0.5, 0.5, 1, 2],
        "balanced": [2 / 3, 2 / 3, 2 / 3, 2],
    }
    for sampling, weights in expected.items():
        found = importance_of(sampling, labels, repeats)  # type: ignore[arg-type]
        assert found.tolist() == pytest.approx(weights)
    root = importance_of("sqrt", labels, repeats)
    assert float(root[3] / root[0]) == pytest.approx(3**0.5)
    assert float(root.mean()) == pytest.approx(1)
