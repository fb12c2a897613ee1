"""A last layer that answers by nearness: each class is a point among the features."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from shards.errors import UserError
from train.method.models import classifier_layer

SMALLEST = 1e-12
"""Of a squared distance: the root of 0 has no slope."""


class Prototypes(nn.Linear):
    """In place of the last linear layer: logits are the negative distances to K learned points.

    ``weight`` holds the points, ``(K, D)``; there is no bias. So the probability of class k is
    ``exp(-|f - p_k|)`` over the sum of all (Euclidean norm, not squared), as in the source.

    References:
        Sainte Fare Garnot and Landrieu (arXiv:2007.03047), section 3.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__(in_features, num_classes, bias=False)

    def reset_parameters(self) -> None:
        """Points about the origin, about 1.4 apart from each other."""
        nn.init.normal_(self.weight, std=self.in_features**-0.5)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """``(B, D)`` -> ``(B, K)`` logits, at most 0."""
        return -distances(features, self.weight)


def distances(points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """``(N, D)``, ``(M, D)`` -> ``(N, M)`` Euclidean distances, never in 16 bits.

    By one matrix product, which a GPU is made for; in 16 bits nothing would be left of the difference
    of its large terms.
    """
    kind = others.device.type
    is_cast = torch.is_autocast_enabled(kind)  # else no context, which an exported graph would keep
    with torch.autocast(kind, enabled=False) if is_cast else nullcontext():
        points = points.to(others.dtype)
        lengths = points.square().sum(1)[:, None] + others.square().sum(1)
        return (lengths - 2 * points @ others.T).clamp_min(SMALLEST).sqrt()


def class_means(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """``(K, D)`` the mean of each class's features; of a class without any, the mean of all.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` int64 in [0, K).
        num_classes: K.
    """
    counts = labels.bincount(minlength=num_classes)[:, None]
    sums = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    return torch.where(counts > 0, sums / counts.clamp_min(1), features.mean(0))


def use_prototypes(backbone: nn.Module, num_classes: int) -> None:
    """Let a network end in prototypes in place of its last linear layer; they begin at random.

    Raises:
        UserError: It does not end in a linear layer.
    """
    name = classifier_layer(backbone, num_classes)
    layer = backbone.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise UserError(
            f"the last layer of {type(backbone).__name__} ({name}) is no linear one, so prototypes "
            "cannot take its place; choose another --arch, or --hierarchy-loss soft-labels"
        )
    backbone.set_submodule(name, Prototypes(layer.in_features, num_classes))
