"""Multinomial logistic regression by L-BFGS, its regularisation chosen on val."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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


class LogisticRegression:
    """The path of solutions from the strongest penalty to the weakest.

    Minimises the weighted mean cross entropy plus ``penalty / 2`` times the squared norm of the
    weights, on features that are brought to mean 0 and variance 1 (or not); the bias is free.

    Args:
        train: What to fit.
        importance: ``(N,)`` weight of each sample, of mean 1.
        num_classes: K.
        standardised: Whether features are brought to variance 1: of a handful of samples, those that
            hardly differ would count like all others.
    """

    def __init__(
        self,
        train: Samples,
        importance: torch.Tensor,
        num_classes: int,
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
        self._labels, self._importance = train.labels, importance
        self._weight = torch.zeros(num_classes, features.shape[1], device=features.device)
        self._bias = torch.zeros(num_classes, device=features.device)

    def fit(self, penalty: float) -> Head:
        """The solution for a penalty, from the last one on."""
        parameters = [self._weight.requires_grad_(), self._bias.requires_grad_()]
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=ITERATIONS,
            tolerance_grad=TOLERANCE,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            logits = self._scaled @ self._weight.T + self._bias
            losses = cross_entropy(logits, self._labels, reduction="none")
            loss = (self._importance * losses).mean() + penalty / 2 * self._weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        with torch.enable_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        # Back to the features as the network gives them.
        weight = (self._weight / self._std).detach()
        return Head(weight, self._bias.detach() - weight @ self._mean)


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
