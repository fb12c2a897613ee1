"""Losses that know the tree: what they ask for, and last layers that are fitted by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from shards.errors import UserError
from train.engine.logistic import LogisticRegression, Samples
from train.engine.point_fit import PointFit
from train.method.hierarchy import Structure, distortion, soft_labels
from train.method.models import create_model
from train.method.objective import Objective
from train.method.prototypes import Prototypes, class_means, distances, use_prototypes
from train.scores.species import taxonomy_of

ZEROS = ((0.0,) * 3, (1.0,) * 3)


@pytest.fixture
def heights(tree: Path, tree_names: tuple[str, ...]) -> torch.Tensor:
    return taxonomy_of(tree_names, tree).heights


@given(st.floats(0.01, 100))
def test_a_label_gives_more_to_nearer_species_and_all_in_all_is_one(beta: float) -> None:
    # Two genera of one family, and a species of another phylum.
    heights = torch.tensor([[0, 1, 2, 6], [1, 0, 2, 6], [2, 2, 0, 6], [6, 6, 6, 0]])
    labels = soft_labels(heights, beta).double()
    assert labels.sum(1).tolist() == pytest.approx([1.0] * 4)
    for label, row in zip(labels, heights, strict=True):
        order = row.argsort()
        assert (label[order].diff() <= 0).all()
    nearest, far = float(labels[0, 1] / labels[0, 0]), float(labels[0, 2] / labels[0, 0])
    # exp(-beta / 6) and exp(-2 beta / 6).
    assert far == pytest.approx(nearest**2, rel=1e-3, abs=1e-12)


def test_soft_labels_worked_by_hand() -> None:
    heights = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 2, 0]])
    expected = torch.tensor([[1, 0.5, 0.25], [0.5, 1, 0.25], [0.25, 0.25, 1]])
    found = soft_labels(heights, 2 * torch.log(torch.tensor(2.0)).item())
    assert torch.allclose(found, expected / expected.sum(1, keepdim=True))


def test_the_largest_beta_leaves_labels_as_they_are(heights: torch.Tensor) -> None:
    assert torch.allclose(soft_labels(heights, 1e4), torch.eye(len(heights)))


@given(st.integers(0, 1000), st.floats(0.1, 100))
def test_the_distortion_is_the_smallest_over_all_scales_and_knows_no_scale(
    seed: int, scale: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(5, 7, generator=draw, dtype=torch.float64)
    wanted = torch.cdist(*2 * [torch.randn(5, 3, generator=draw, dtype=torch.float64)])
    found = float(distortion(prototypes, wanted))
    assert found == pytest.approx(float(distortion(scale * prototypes, wanted)), abs=1e-9)
    pairs = torch.triu_indices(5, 5, 1).unbind()
    apart, asked = torch.cdist(prototypes, prototypes)[pairs], wanted[pairs]
    scales = torch.linspace(0, 5, 5001, dtype=torch.float64)[:, None]
    at_scale = float((((scales * apart - asked) / asked) ** 2).mean(1).min())
    assert found <= at_scale + 1e-9
    assert found == pytest.approx(at_scale, abs=1e-5)


def test_prototypes_that_lie_as_in_the_tree_have_no_distortion_and_training_gets_there(
    heights: torch.Tensor,
) -> None:
    wanted = heights.double()
    torch.manual_seed(0)
    layer = Prototypes(8, len(heights)).double()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    before = float(distortion(layer.weight.detach(), wanted))
    for _ in range(300):
        optimizer.zero_grad()
        distortion(layer.weight, wanted).backward()
        optimizer.step()
    assert before > 0.02
    assert (
        float(distortion(layer.weight.detach(), wanted)) < 1e-4
    )  # a tree's heights fit among points
    apart = distances(*2 * [layer.weight.detach()])
    ratio = (apart / wanted)[wanted > 0]
    assert ratio.std() < 0.02 * ratio.mean()


def test_prototypes_in_one_place_have_a_gradient() -> None:
    prototypes = torch.zeros(3, 4, requires_grad=True)
    distortion(prototypes, 1 - torch.eye(3)).backward()
    assert prototypes.grad is not None
    assert torch.isfinite(prototypes.grad).all()


@pytest.mark.parametrize("cast", [False, True])
def test_logits_are_negative_distances_never_in_16_bits(cast: bool) -> None:
    layer = Prototypes(512, 6)
    features = 20 + torch.randn(4, 512)  # far from the origin, as features of ReLU are
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
        logits = layer(features)
    assert logits.dtype == torch.float32
    expected = -torch.cdist(features.double(), layer.weight.double())
    assert torch.allclose(logits.double(), expected, rtol=1e-5)


def test_the_mean_of_a_class_without_features_is_that_of_all() -> None:
    features = torch.tensor([[0.0, 2.0], [2.0, 4.0], [7.0, 0.0]])
    means = class_means(features, torch.tensor([0, 0, 2]), 3)
    assert means.tolist() == [[1, 3], [3, 2], [7, 0]]


def clouds(classes: int = 4, count: int = 80, dimensions: int = 6) -> Samples:
    draw = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % classes
    centres = 1.5 * torch.randn(classes, dimensions, generator=draw)
    return Samples(centres[labels] + torch.randn(count, dimensions, generator=draw), labels)


HEIGHTS = torch.tensor([[0.0, 1, 3, 3], [1, 0, 3, 3], [3, 3, 0, 2], [3, 3, 2, 0]])


def point_fit(train: Samples, weight: float, **objective: Any) -> PointFit:
    structure = Structure(Prototypes(train.features.shape[1], len(HEIGHTS)), HEIGHTS, weight)
    return PointFit(train, torch.ones(len(train)), Objective(structure=structure, **objective))


def test_fitted_prototypes_go_from_class_means_to_a_minimum() -> None:
    train = clouds()
    means = class_means(train.features, train.labels, 4)
    strong, weak = point_fit(train, 0.5).fit(1e4), point_fit(train, 0.5).fit(1e-2)
    assert torch.allclose(strong.points, means, atol=1e-3)
    unit = train.features.var(0, correction=0).mean().sqrt()

    def loss(points: torch.Tensor) -> torch.Tensor:
        way = ((points - means) / unit).square().sum()
        fit = cross_entropy(-torch.cdist(train.features, points), train.labels)
        return fit + 0.5 * distortion(points, HEIGHTS) + 1e-2 / 2 * way

    points = weak.points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(points), points)
    assert gradient.abs().max() < 1e-4
    assert float(loss(weak.points)) < float(loss(means)) - 0.01


def test_the_weight_of_the_tree_brings_fitted_prototypes_nearer_to_it() -> None:
    train = clouds()
    found = [
        float(distortion(point_fit(train, each).fit(1e-3).points, HEIGHTS)) for each in (0, 1, 10)
    ]
    assert found[0] > found[1] > found[2]


def test_fitted_soft_labels_are_what_the_probabilities_come_to() -> None:
    """Features that say the class and nothing else: the fit can do no better than the labels."""
    labels = torch.arange(60) % 3
    asked = soft_labels(torch.tensor([[0, 1, 2], [1, 0, 2], [2, 2, 0]]), 2.0)
    train = Samples(torch.eye(3)[labels], labels)
    head = LogisticRegression(train, torch.ones(60), 3, asked).fit(1e-6)
    assert torch.allclose(head.logits(torch.eye(3)).softmax(1), asked, atol=1e-3)


def test_a_network_without_a_linear_last_layer_cannot_end_in_prototypes() -> None:
    backbone = create_model("squeezenet1_1", 5, *ZEROS).backbone
    with pytest.raises(
        UserError, match=r"SqueezeNet \(classifier.1\) is no linear one, so prototypes"
    ):
        use_prototypes(backbone, 5)
