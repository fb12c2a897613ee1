"""Few-shot episodes: some classes, a few photographs of each to learn from, others to name.

Vinyals et al., "Matching Networks for One Shot Learning" (arXiv:1606.04080), section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from loaders.draws import Ids
from shards.errors import UserError
from train.engine.logistic import Samples


@dataclass(frozen=True, slots=True)
class Episode:
    """Labels count the classes of the episode, from 0 to ways - 1."""

    support: Samples
    """To learn from: as many of each class."""
    queries: Samples
    """To name: as many of each class, none of them in the support."""


@dataclass(frozen=True)
class Episodes:
    """Draws episodes; the same number always gives the same one.

    The queries of an episode are the same whatever the number of shots, and more shots contain fewer.
    """

    pool: Samples
    """Photographs of the new classes; ``(N, D)`` features."""
    ways: int
    """Classes of an episode."""
    queries: int
    """Of each class."""
    seed: int = 0

    @cached_property
    def _of_class(self) -> dict[int, Ids]:
        labels = self.pool.labels.cpu().numpy()
        return {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}

    def check(self, shots: int, names: tuple[str, ...]) -> None:
        """Raise :class:`UserError` where there are too few classes or photographs.

        Args:
            shots: The most that are asked for.
            names: Of the labels of the pool.
        """
        if self.ways > len(self._of_class):
            raise UserError(
                f"{self.ways} ways, and there are {len(self._of_class)} new classes with photographs"
            )
        label, rows = min(self._of_class.items(), key=lambda each: len(each[1]))
        if len(rows) < shots + self.queries:
            raise UserError(
                f"{shots} shots and {self.queries} queries a class: {names[label]!r} has "
                f"{len(rows)} photographs; choose fewer"
            )

    def episode(self, number: int, shots: int) -> Episode:
        """One of them.

        Args:
            number: Which.
            shots: Photographs of each class to learn from.
        """
        rng = np.random.default_rng([self.seed, number])
        chosen = rng.choice(sorted(self._of_class), self.ways, replace=False)
        orders = [rng.permutation(self._of_class[int(label)]) for label in chosen]
        return Episode(
            support=self._samples([each[self.queries :][:shots] for each in orders]),
            queries=self._samples([each[: self.queries] for each in orders]),
        )

    def _samples(self, rows: list[Ids]) -> Samples:
        at = torch.from_numpy(np.concatenate(rows)).to(self.pool.labels.device)
        labels = torch.arange(len(rows)).repeat_interleave(len(rows[0])).to(at.device)
        return Samples(self.pool.features[at], labels)
