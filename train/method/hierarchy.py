"""Losses that know the tree of the classes: targets that it softens, prototypes that lie like it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from train.method.prototypes import Prototypes, distances


def soft_labels(heights: torch.Tensor, beta: float) -> torch.Tensor:
    """What is asked for in place of each label: the nearer a class is in the tree, the more of it.

    Class C has the share ``exp(-beta d(A, C)) / sum_B exp(-beta d(A, B))`` of label A, where d is the
    height of the lowest common ancestor over that of the whole tree: 0 for A itself, 1 for classes that
    meet at the root alone.

    Args:
        heights: ``(K, K)`` int64, of the lowest common ancestor of two classes; not all 0.
        beta: From 0, where all classes have the same share, to infinity, where A has all of it.

    Returns:
        ``(K, K)`` of torch's default type, a row a label; each sums to 1.

    References:
        Bertinetto et al., "Making Better Mistakes" (arXiv:1912.09393), section 3.2.
    """
    far = heights.double() / heights.max()
    return (-beta * far).softmax(1).to(torch.get_default_dtype())


def distortion(prototypes: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How far distances between prototypes are from being proportional to those of the tree.

    The mean over pairs k != l of ``((s |p_k - p_l| - D[k, l]) / D[k, l])^2`` at the scale s for which it
    is smallest. With the ratios ``a = |p_k - p_l| / D[k, l]`` that scale is ``sum a / sum a^2``, and the
    mean there ``1 - (mean a)^2 / mean a^2``.

    Args:
        prototypes: ``(K, D)``.
        wanted: ``(K, K)`` distances of the classes in the tree; above 0 but on the diagonal.

    Returns:
        A scalar in [0, 1): 0 exactly if the distances are proportional.

    References:
        Sainte Fare Garnot and Landrieu, "Leveraging Class Hierarchies with Metric-Guided Prototype
        Learning" (arXiv:2007.03047), the scale-free distortion of section 3.
    """
    pairs = len(wanted) * (len(wanted) - 1)
    # The diagonal takes no part: 1 / infinity.
    ratios = distances(prototypes, prototypes) / wanted.where(wanted > 0, torch.inf)
    mean, mean_square = ratios.sum() / pairs, ratios.square().sum() / pairs
    return 1 - mean.square() / mean_square


@dataclass(frozen=True, slots=True)
class Structure:
    """Part of a loss: prototypes should lie to each other as their classes do in the tree."""

    layer: Prototypes
    """Of the model."""
    heights: torch.Tensor
    """``(K, K)`` floats: of the lowest common ancestor of two classes, on the device."""
    weight: float
    """Of the distortion in the loss."""

    def loss(self) -> torch.Tensor:
        """A scalar in [0, ``weight``)."""
        return self.weight * distortion(self.layer.weight, self.heights)
