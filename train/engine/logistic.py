"""Multinomial logistic regression by L-BFGS, its regularisation chosen on val."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from loaders.plan import Sampling

PENALTIES = (1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
"""Of the mean squared weight; tried from the strongest on, each from the solution before it."""
ITERATIONS = 100
TOLERANCE = 1e-5
"""Largest gradient at which a fit has converged."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Features of photographs."""

    features: torch.Tensor
    """``(N, D)`` float32."""
    labels: torch.Tensor
    """``(N,)`` int64 in [0, K)."""

    def __len__(self) -> int:
        """N."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Head:
    """A linear classifier."""

    weight: torch.Tensor
    """``(K, D)`` float32."""
    bias: torch.Tensor
    """``(K,)`` float32."""

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """``(N, D)`` -> ``(N, K)``."""
        return features @ self.weight.T + self.bias

    def tensors(self) -> dict[str, torch.Tensor]:
        """By name."""
        return {"weight": self.weight, "bias": self.bias}

    def only(self, classes: torch.Tensor) -> Head:
        """Of some classes, ``(K,)`` bool."""
        return Head(self.weight[classes], self.bias[classes])

    def put_into(self, layer: nn.Linear) -> None:
        """Make it the last layer of a network; one without a bias has none of it."""
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            if layer.bias is not None:
                layer.bias.copy_(self.bias)


class LogisticRegression:
    """The path of solutions from the strongest penalty to the weakest.

    Minimises the weighted mean cross entropy plus ``penalty / 2`` times the squared norm of the
    weights, on features that are brought to mean 0 and variance 1 (or not); the bias is free.

    Args:
        train: What to fit.
        importance: ``(N,)`` weight of each sample, of mean 1.
        num_classes: K.
        soft_labels: ``(K, K)`` what is asked for in place of each label; None: that class alone.
        standardised: Whether features are brought to variance 1: of a handful of samples, those that
            hardly differ would count like all others.
    """

    def __init__(
        self,
        train: Samples,
        importance: torch.Tensor,
        num_classes: int,
        soft_labels: torch.Tensor | None = None,
        *,
        standardised: bool = True,
    ) -> None:
        features = train.features
        self._mean = features.mean(0)
        # A feature that never changes says nothing: its deviation of 0 must not divide.
        self._std = features.std(0, correction=0).clamp_min(1e-6)
        if not standardised:
            self._std = torch.ones_like(self._std)
        self._scaled = (features - self._mean) / self._std
        self._asked = train.labels if soft_labels is None else soft_labels[train.labels]
        self._importance = importance
        self._weight = torch.zeros(num_classes, features.shape[1], device=features.device)
        self._bias = torch.zeros(num_classes, device=features.device)

    def fit(self, penalty: float) -> Head:
        """The solution for a penalty, from the last one on."""

        def loss() -> torch.Tensor:
            logits = self._scaled @ self._weight.T + self._bias
            losses = cross_entropy(logits, self._asked, reduction="none")
            return (self._importance * losses).mean() + penalty / 2 * self._weight.square().sum()

        lbfgs([self._weight.requires_grad_(), self._bias.requires_grad_()], loss)
        # Back to the features as the network gives them.
        weight = (self._weight / self._std).detach()
        return Head(weight, self._bias.detach() - weight @ self._mean)


def lbfgs(parameters: list[torch.Tensor], loss: Callable[[], torch.Tensor]) -> None:
    """Move parameters to a minimum of a loss, from where they are."""
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=ITERATIONS,
        tolerance_grad=TOLERANCE,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]


def importance_of(sampling: Sampling, labels: torch.Tensor, repeats: torch.Tensor) -> torch.Tensor:
    """``(N,)`` weights of mean 1, in proportion to how often a plan would show each sample.

    Args:
        sampling: Of the plan (:mod:`loaders.plan`).
        labels: ``(N,)`` classes.
        repeats: ``(N,)`` CSV rows that name each sample.
    """
    of_class = labels.bincount()[labels].float()
    weights = {
        "csv": repeats.float(),
        "natural": torch.ones_like(of_class),
        "balanced": 1 / of_class,
        "sqrt": of_class.rsqrt(),
    }[sampling]
    return weights / weights.mean()
