"""Prototypes for the features of a frozen network, by L-BFGS: from class means to where they do best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from train.engine.logistic import Samples, lbfgs
from train.method.hierarchy import distortion
from train.method.objective import Objective
from train.method.prototypes import class_means, distances


@dataclass(frozen=True, slots=True)
class Points:
    """A classifier by nearness."""

    points: torch.Tensor
    """``(K, D)`` float32."""

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """``(N, D)`` -> ``(N, K)``."""
        return -distances(features, self.points)

    def tensors(self) -> dict[str, torch.Tensor]:
        """By name."""
        return {"weight": self.points}

    def only(self, classes: torch.Tensor) -> Points:
        """Of some classes, ``(K,)`` bool."""
        return Points(self.points[classes])

    def put_into(self, layer: nn.Linear) -> None:
        """Make it the last layer of a network, which is :class:`~train.method.prototypes.Prototypes`."""
        with torch.no_grad():
            layer.weight.copy_(self.points)


class PointFit:
    """The path of solutions from the strongest penalty, nearest class mean, to the weakest.

    Minimises the weighted mean cross entropy, plus the weight of the objective times the distortion, plus
    ``penalty / 2`` times the squared way of the points from the means of their classes, in units of the
    features' mean deviation.

    Args:
        train: What to fit.
        importance: ``(N,)`` weight of each sample, of mean 1.
        objective: Of the run; has a structure.
    """

    def __init__(self, train: Samples, importance: torch.Tensor, objective: Objective) -> None:
        assert objective.structure is not None
        self._train, self._importance = train, importance
        self._offsets, self._structure = objective.logit_offsets, objective.structure
        self._means = class_means(train.features, train.labels, len(self._structure.heights))
        self._unit = train.features.var(0, correction=0).mean().sqrt()
        self._ways = torch.zeros_like(self._means)

    def fit(self, penalty: float) -> Points:
        """The solution for a penalty, from the last one on."""
        ways, structure = self._ways.requires_grad_(), self._structure

        def loss() -> torch.Tensor:
            points = self._means + self._unit * ways
            logits = Points(points).logits(self._train.features)
            if self._offsets is not None:
                logits = logits + self._offsets
            losses = cross_entropy(logits, self._train.labels, reduction="none")
            apart = structure.weight * distortion(points, structure.heights)
            return (self._importance * losses).mean() + apart + penalty / 2 * ways.square().sum()

        lbfgs([ways], loss)
        return Points((self._means + self._unit * ways).detach())
