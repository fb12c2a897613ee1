"""How well a photograph fits the species that a model knows; low scores speak for another one.

Scores are oriented alike: the higher, the better known. Features are those before the last layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.nn.functional import normalize

Score = Literal["softmax", "logit", "energy", "mahalanobis", "neighbours"]
SCORES: tuple[Score, ...] = ("softmax", "logit", "energy", "mahalanobis", "neighbours")
NEED_FEATURES: tuple[Score, ...] = ("mahalanobis", "neighbours")
NEIGHBOURS = 5
"""The score is the distance to the one of this number."""
BANK = 10_000
"""Training photographs to look for neighbours among, at most; a random choice does as well (Sun et al.,
section 4.2), and the checkpoint stays small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is remembered of the training photographs."""

    means: torch.Tensor
    """``(C, D)`` of the known classes' features."""
    whitening: torch.Tensor
    """``(D, D)``: features times this vary alike in all directions within a class."""
    bank: torch.Tensor
    """``(N, D)`` features of length 1."""

    def __post_init__(self) -> None:
        size = self.whitening.shape[-1]
        shapes = [tuple(each.shape[1:]) for each in (self.means, self.whitening, self.bank)]
        if shapes != [(size,)] * 3 or len(self.whitening) != size:
            raise ValueError(f"means, whitening and bank do not fit together: {shapes}")

    def with_class(self, features: torch.Tensor) -> Known:
        """After one class more, of ``(n, D)`` features; its spread is taken for that of the others."""
        features = features.to(self.bank)
        return replace(
            self,
            means=torch.cat([self.means, features.mean(0, keepdim=True)]),
            bank=torch.cat([self.bank, normalize(features)]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownDetector:
    """Says which photographs show none of the known species."""

    score: Score
    threshold: float
    """Below it a photograph is unknown."""
    recall: float
    """Share of val's photographs that it was chosen to let through."""
    known: Known | None = None
    """None where the score needs no features."""

    def __post_init__(self) -> None:
        if (self.known is None) == (self.score in NEED_FEATURES):
            raise ValueError(f"score {self.score} with known {type(self.known).__name__}")

    def scores(self, logits: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        """``(N,)`` float32.

        Args:
            logits: ``(N, C)`` of the known classes alone.
            features: ``(N, D)``; None where :attr:`known` is None.
        """
        return SCORE_OF[self.score](logits, features, self.known)

    def with_class(self, features: torch.Tensor) -> UnknownDetector:
        """After one class more, of ``(n, D)`` features; the threshold stays."""
        known = None if self.known is None else self.known.with_class(features)
        return replace(self, known=known)


def remember(features: torch.Tensor, labels: torch.Tensor, seed: int = 0) -> Known:
    """What the scores need of the training photographs.

    Args:
        features: ``(N, D)``.
        labels: ``(N,)`` their classes.
        seed: Of the choice of neighbours.
    """
    classes, at = torch.unique(labels, return_inverse=True)
    sums = features.new_zeros(len(classes), features.shape[1]).index_add_(0, at, features)
    means = sums / at.bincount()[:, None]
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))[:BANK]
    triangle = torch.linalg.cholesky(shrunk_covariance(features - means[at]))
    return Known(
        means=means,
        whitening=torch.linalg.inv(triangle).T.float().contiguous(),
        bank=normalize(features[order.to(features.device)]),
    )


def shrunk_covariance(centred: torch.Tensor) -> torch.Tensor:
    """``(D, D)`` float64 covariance that has an inverse even with fewer samples than dimensions.

    The plain one is drawn towards a multiple of the identity, as far as minimises the expected squared
    error: Ledoit & Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (2004).

    Args:
        centred: ``(N, D)`` of mean 0.
    """
    samples = centred.double()
    count, size = samples.shape
    plain = samples.T @ samples / count
    scale = plain.diagonal().mean()
    squares = samples.square()
    # d^2 and b^2 of the paper, times D
    apart = plain.square().sum() - size * scale**2
    noise = (squares.T @ squares / count - plain.square()).sum() / count
    share = float((noise.clamp(max=apart) / apart).nan_to_num(1.0)) if apart > 0 else 1.0
    covariance = (1 - share) * plain
    covariance.diagonal().add_(share * scale.clamp_min(1e-12))
    return covariance


def threshold_at(scores: torch.Tensor, recall: float) -> float:
    """The highest threshold at which a share of at least ``recall`` of the scores is not below it."""
    kept = math.ceil(recall * len(scores) - 1e-9)  # 0.56 * 100 is a hair above 56
    return float(scores.sort(descending=True).values[max(kept, 1) - 1])


def _softmax(
    logits: torch.Tensor, features: torch.Tensor | None, known: Known | None
) -> torch.Tensor:
    """Largest probability: Hendrycks & Gimpel (arXiv:1610.02136)."""
    return logits.softmax(1).amax(1)


def _logit(
    logits: torch.Tensor, features: torch.Tensor | None, known: Known | None
) -> torch.Tensor:
    """Largest logit: Hendrycks et al. (arXiv:1911.11132)."""
    return logits.amax(1)


def _energy(
    logits: torch.Tensor, features: torch.Tensor | None, known: Known | None
) -> torch.Tensor:
    """Negative energy, at temperature 1: Liu et al. (arXiv:2010.03759)."""
    return logits.logsumexp(1)


def _mahalanobis(
    logits: torch.Tensor, features: torch.Tensor | None, known: Known | None
) -> torch.Tensor:
    """Negative squared distance to the nearest class mean: Lee et al. (arXiv:1807.03888), section 2.1."""
    assert features is not None
    assert known is not None
    here, means = features @ known.whitening, known.means @ known.whitening
    return -torch.cdist(here, means).amin(1).square()


def _neighbours(
    logits: torch.Tensor, features: torch.Tensor | None, known: Known | None
) -> torch.Tensor:
    """Negative distance to the k-th nearest training photograph: Sun et al. (arXiv:2204.06507)."""
    assert features is not None
    assert known is not None
    k = min(NEIGHBOURS, len(known.bank))
    distances = torch.cdist(normalize(features), known.bank)
    return -distances.kthvalue(k, dim=1).values


SCORE_OF: dict[Score, Callable[[torch.Tensor, torch.Tensor | None, Known | None], torch.Tensor]] = {
    "softmax": _softmax,
    "logit": _logit,
    "energy": _energy,
    "mahalanobis": _mahalanobis,
    "neighbours": _neighbours,
}
