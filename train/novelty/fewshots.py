"""Naming photographs after a few of each class, in a :mod:`~train.novelty.feature_space`.

Features are brought to length 1 first (SimpleShot: Wang et al., arXiv:1911.04623, "L2N").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import normalize

from train.engine.logistic import LogisticRegression, Samples
from train.novelty.episodes import Episode, Episodes

NEIGHBOURS = 5
"""At most; no more than there are shots."""
TEMPERATURE = 0.07
"""Of a neighbour's vote: Wu et al., arXiv:1805.01978, section 3.4."""
PENALTY = 1.0
"""Of the logistic regression, over the number of photographs: scikit-learn's C of 1, as Tian et al. have."""


def nearest_class_mean(support: Samples, queries: torch.Tensor, ways: int) -> torch.Tensor:
    """``(Q,)`` the class whose mean is nearest.

    Mensink et al., "Distance-Based Image Classification" (TPAMI 2013); prototypes: Snell et al.
    (arXiv:1703.05175).
    """
    sums = support.features.new_zeros(ways, support.features.shape[1])
    sums.index_add_(0, support.labels, support.features)
    means = sums / support.labels.bincount(minlength=ways)[:, None]
    return torch.cdist(queries, means).argmin(1)


def nearest_neighbours(support: Samples, queries: torch.Tensor, ways: int) -> torch.Tensor:
    """``(Q,)`` the class with the most votes of the nearest photographs, the nearer the more.

    A neighbour of similarity s has a vote of exp(s / TEMPERATURE): Wu et al. (arXiv:1805.01978).
    """
    shots = len(support) // ways
    similar, which = (queries @ support.features.T).topk(min(NEIGHBOURS, shots), dim=1)
    votes = queries.new_zeros(len(queries), ways)
    votes.scatter_add_(1, support.labels[which], ((similar - 1) / TEMPERATURE).exp())
    return votes.argmax(1)


def logistic_head(support: Samples, queries: torch.Tensor, ways: int) -> torch.Tensor:
    """``(Q,)`` what a logistic regression says that was fitted to the few.

    Tian et al., "Rethinking Few-Shot Image Classification: a Good Embedding Is All You Need?"
    (arXiv:2003.11539).
    """
    even = torch.ones_like(support.labels, dtype=support.features.dtype)
    # The weights are sums of the few photographs: within what these span, a fit takes far less.
    span = torch.linalg.qr(support.features.T).Q
    few = Samples(support.features @ span, support.labels)
    path = LogisticRegression(few, even, ways, standardised=False)
    return path.fit(PENALTY / len(support)).logits(queries @ span).argmax(1)


METHODS: dict[str, Callable[[Samples, torch.Tensor, int], torch.Tensor]] = {
    "class mean": nearest_class_mean,
    "neighbours": nearest_neighbours,
    "logistic": logistic_head,
}
"""From the few of each class (features of length 1), ``(Q, D)`` queries and the number of classes."""


def accuracies(episodes: Episodes, shots: int, count: int) -> dict[str, list[float]]:
    """Share of queries that each method names rightly, episode by episode, on the same episodes."""
    found: dict[str, list[float]] = {name: [] for name in METHODS}
    for number in range(count):
        episode = _of_length_1(episodes.episode(number, shots))
        for name, method in METHODS.items():
            named = method(episode.support, episode.queries.features, episodes.ways)
            found[name].append(float((named == episode.queries.labels).double().mean()))
    return found


def _of_length_1(episode: Episode) -> Episode:
    support, queries = (
        Samples(normalize(each.features), each.labels)
        for each in (episode.support, episode.queries)
    )
    return Episode(support, queries)
