"""Probabilities -> an answer as narrow as the model is sure, and how dangerous it may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from train.scores.species import DANGEROUS, Taxonomy

SPECIES = "species"
UNKNOWN = "unknown"
FALL_BACK = ("genus", "family")
"""Where the species is unsure: together its members may be sure enough."""


@dataclass(frozen=True, slots=True)
class Answer:
    """To one photograph."""

    name: str
    """Of the species, else of the genus or family; empty where not even that is sure."""
    rank: str
    """Of the name; where there is none ``unsure``, or ``unknown``: none of the known species."""
    probability: float
    """Of the name; of the most probable species where there is none."""
    top: tuple[tuple[str, float], ...]
    """The most probable species, with their probabilities."""
    edibility: str
    """Of the most probable species, as the species table has it; empty where it is unknown."""
    dangerous: float | None
    """Probability that it is a poisonous or deadly species; None where the table knows none, or the
    species is unknown."""
    known_score: float | None = None
    """How well the photograph fits the known species (:mod:`train.scores.unknown`)."""
    species_set: tuple[str, ...] | None = None
    """That holds the species with a stated probability (:mod:`train.scores.conformal`)."""
    prior: str | None = None
    """What a prior knew of the photograph (``place and season``), empty where that was nothing; None
    without a prior."""


class Answering:
    """Makes answers.

    Args:
        taxonomy: Of the model's classes.
        sure: The probability from which on a name is an answer.
        top: How many species to list.
        known_from: Score from which on a photograph shows a known species; by default all do.
    """

    def __init__(
        self, taxonomy: Taxonomy, sure: float, top: int, known_from: float = -math.inf
    ) -> None:
        self._taxonomy = taxonomy
        self._sure = sure
        self._known_from = known_from
        self._top = min(top, len(taxonomy.classes))
        self._dangerous = taxonomy.with_edibility(*DANGEROUS)
        self._ranks = [(rank, *taxonomy.groups(rank)) for rank in FALL_BACK]

    @property
    def warns(self) -> bool:
        """Whether the species table knows anything about danger here."""
        return bool(self._dangerous.any())

    def answers(
        self,
        probabilities: torch.Tensor,
        known_scores: torch.Tensor | None = None,
        sets: torch.Tensor | None = None,
        priors: Sequence[str] | None = None,
    ) -> list[Answer]:
        """To N photographs.

        Args:
            probabilities: ``(N, K)`` calibrated, float64 on the CPU.
            known_scores: ``(N,)`` how well each fits the known species; None where nothing says so.
            sets: ``(N, K)`` bool: prediction sets; None where none were asked for.
            priors: What a prior knew of each; None without one.
        """
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
            score = None if known_scores is None else float(known_scores[at])
            is_known = score is None or score >= self._known_from
            if not is_known:
                name, rank = "", UNKNOWN
            elif probability < self._sure:
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
                    edibility=self._taxonomy.classes[which[0]].edibility if is_known else "",
                    dangerous=dangers[at] if self.warns and is_known else None,
                    known_score=score,
                    species_set=None if sets is None else self._names(sets[at], probabilities[at]),
                    prior=None if priors is None else priors[at],
                )
            )
        return answers

    def _names(self, chosen: torch.Tensor, probabilities: torch.Tensor) -> tuple[str, ...]:
        """The most probable first."""
        order = probabilities.argsort(descending=True)
        return tuple(self._taxonomy.names[int(label)] for label in order if chosen[label])
