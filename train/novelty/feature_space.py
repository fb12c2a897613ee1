"""Where new classes are compared: features in which known classes spread alike in every direction.

Two steps, both learned from classes that are not the new ones. The square root of each feature makes its
distribution less skewed (Hu et al., arXiv:2006.03806; Yang et al., arXiv:2101.06395, call it Tukey's
ladder). Then what varies much within known classes, and so tells no class from another, counts less: the
distance of Mahalanobis by the covariance within classes (as in Lee et al., arXiv:1807.03888), shrunk after
Ledoit and Wolf, so nothing of it is tuned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from train.engine.logistic import Samples
from train.method.prototypes import class_means
from train.scores.unknown import shrunk_covariance


@dataclass(frozen=True, slots=True)
class FeatureSpace:
    """What known classes say about directions."""

    middle: torch.Tensor
    """``(D,)`` mean of the roots."""
    whitening: torch.Tensor
    """``(D, D)``."""

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """``(N, D)`` features -> ``(N, D)``, within a known class of about unit covariance."""
        return (roots(features) - self.middle) @ self.whitening


def roots(features: torch.Tensor) -> torch.Tensor:
    """The square root of each, with the sign it had."""
    return features.sign() * features.abs().sqrt()


def space_of(base: Samples) -> FeatureSpace:
    """Learned from photographs of known classes.

    Args:
        base: At least one photograph.
    """
    classes, labels = torch.unique(base.labels, return_inverse=True)
    rooted = roots(base.features)
    within = rooted - class_means(rooted, labels, len(classes))[labels]
    triangle = torch.linalg.cholesky(shrunk_covariance(within))
    whitening = torch.linalg.inv(triangle).T.to(base.features.dtype).contiguous()
    return FeatureSpace(rooted.mean(0), whitening)


def without(samples: Samples, labels: torch.Tensor) -> Samples:
    """Samples of all classes but some."""
    kept = ~torch.isin(samples.labels, labels.to(samples.labels.device))
    return Samples(samples.features[kept], samples.labels[kept])
