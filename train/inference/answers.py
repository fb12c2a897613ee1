"""Probabilities -> an answer as narrow as the model is sure, and how dangerous it may be."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from train.scores.species import DANGEROUS, Taxonomy

SPECIES = "species"
FALL_BACK = ("genus", "family")
"""Where the species is unsure: together its members may be sure enough."""


@dataclass(frozen=True, slots=True)
class Answer:
    """To one photograph."""

    name: str
    """Of the species, else of the genus or family; empty where not even that is sure."""
    rank: str
    """Of the name; ``unsure`` where there is none."""
    probability: float
    """Of the name; of the most probable species where there is none."""
    top: tuple[tuple[str, float], ...]
    """The most probable species, with their probabilities."""
    edibility: str
    """Of the most probable species, as the species table has it."""
    dangerous: float | None
    """Probability that it is a poisonous or deadly species; None where the table knows none."""


class Answering:
    """Makes answers.

    Args:
        taxonomy: Of the model's classes.
        sure: The probability from which on a name is an answer.
        top: How many species to list.
    """

    def __init__(self, taxonomy: Taxonomy, sure: float, top: int) -> None:
        self._taxonomy = taxonomy
        self._sure = sure
        self._top = min(top, len(taxonomy.classes))
        self._dangerous = taxonomy.with_edibility(*DANGEROUS)
        self._ranks = [(rank, *taxonomy.groups(rank)) for rank in FALL_BACK]

    @property
    def warns(self) -> bool:
        """Whether the species table knows anything about danger here."""
        return bool(self._dangerous.any())

    def answers(self, probabilities: torch.Tensor) -> list[Answer]:
        """Of ``(N, K)`` calibrated probabilities, float64 on the CPU."""
        best, labels = probabilities.topk(self._top, dim=1)
        dangers = probabilities[:, self._dangerous].sum(1).tolist()
        by_rank = [
            (rank, names, probabilities.new_zeros(len(best), len(names)).index_add_(
                1, groups, probabilities).max(1))
            for rank, groups, names in self._ranks
        ]  # fmt: skip
        answers = []
        for at, (values, which) in enumerate(zip(best.tolist(), labels.tolist(), strict=True)):
            name, rank, probability = self._taxonomy.names[which[0]], SPECIES, values[0]
            if probability < self._sure:
                name, rank = "", "unsure"
                for wider, names, (sums, groups) in by_rank:
                    if sums[at] >= self._sure:
                        name, rank = names[int(groups[at])], wider
                        probability = float(sums[at])
                        break
            answers.append(
                Answer(
                    name=name,
                    rank=rank,
                    probability=probability,
                    top=tuple(
                        (self._taxonomy.names[label], value)
                        for label, value in zip(which, values, strict=True)
                    ),
                    edibility=self._taxonomy.classes[which[0]].edibility,
                    dangerous=dangers[at] if self.warns else None,
                )
            )
        return answers
