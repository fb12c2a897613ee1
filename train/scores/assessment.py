"""Everything that is said about a model on a split, beyond the three scores."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from train.scores.calibration import Bin, calibration_error, negative_log_likelihood, reliability
from train.scores.danger import NOTICE, Danger, dangers
from train.scores.evaluation import Evaluation
from train.scores.intervals import Bootstrap, Interval, interval
from train.scores.metrics import ClassScores, Scores, class_scores, in_top, merged, scores
from train.scores.outputs import Outputs
from train.scores.species import RANKS, ROOT, Taxonomy

SCORED_RANKS = RANKS[:3]
"""Genus, family, order: the wider ones hold nearly everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Of the probabilities of a split, as they are and with the logits over a temperature."""

    temperature: float
    nll: float
    """Negative log likelihood [nats]."""
    nll_scaled: float
    ece: float
    """Expected calibration error, in [0, 1]."""
    ece_scaled: float
    bins: tuple[Bin, ...]
    bins_scaled: tuple[Bin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """Of a model on a split; what the data cannot say is None."""

    taxonomy: Taxonomy
    scores: Scores
    top5: float
    intervals: dict[str, Interval]
    """95 %, of ``oa``, ``mf1``, ``miou``, ``top5``, ``nll``, ``lca_height`` and, for each rank,
    ``genus/oa`` and so on."""
    calibration: Calibration
    ranks: dict[str, Scores]
    """With the classes of a genus, family, order put together, where that puts any together."""
    merged: Scores | None
    """With synonyms put together."""
    mistakes: tuple[int, ...] | None
    """Wrong predictions by height of the lowest common ancestor, from 1 (same genus) to ROOT."""
    danger: Danger | None
    classes: ClassScores
    confusion: torch.Tensor
    """``(K, K)`` int64, rows true."""

    @property
    def lca_height(self) -> float | None:
        """Mean height of the lowest common ancestor over the mistakes."""
        if self.mistakes is None or not sum(self.mistakes):
            return None
        total = sum(height * count for height, count in enumerate(self.mistakes, start=1))
        return total / sum(self.mistakes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        columns = {
            name: getattr(self.classes, name).tolist()
            for name in ("precision", "recall", "f1", "iou", "support", "predicted")
        }
        return {
            "top5": self.top5,
            "intervals": {name: [each.low, each.high] for name, each in self.intervals.items()},
            "calibration": asdict(self.calibration),
            **{name: each.as_dict() for name, each in self.ranks.items()},
            "synonyms_merged": None if self.merged is None else self.merged.as_dict(),
            "mistakes_by_height": self.mistakes,
            "lca_height": self.lca_height,
            "danger": None if self.danger is None else self._danger(self.danger),
            "classes": [
                {
                    "name": name,
                    **{
                        column: None if math.isnan(values[at]) else values[at]
                        for column, values in columns.items()
                    },
                }
                for at, name in enumerate(self.taxonomy.names)
            ],
            "confusion": self.confusion.tolist(),
            "classes_not_in_species_table": list(self.taxonomy.unlisted),
            "notice": NOTICE,
        }

    def _danger(self, danger: Danger) -> dict[str, Any]:
        names = self.taxonomy.names
        return {
            **asdict(danger),
            "confusions": [
                {"true": names[true], "predicted": names[predicted], "images": images}
                for true, predicted, images in danger.confusions
            ],
        }

    def lines(self) -> list[str]:
        """The main results, for people."""
        fit, shown = self.calibration, self.intervals
        lines = [
            f"95 %: mIoU {shown['miou']}  mF1 {shown['mf1']}  OA {shown['oa']}",
            f"top-5 {self.top5:.4f} ({shown['top5']})  ECE {fit.ece:.4f}; at temperature "
            f"{fit.temperature:.3f}, fitted on val: loss {fit.nll_scaled:.4f}, ECE "
            f"{fit.ece_scaled:.4f}",
        ]
        lines += [f"by {name}: {each}" for name, each in self.ranks.items()]
        if self.merged is not None:
            lines.append(f"synonyms merged: {self.merged}")
        if self.mistakes is not None and self.lca_height is not None:
            lines.append(
                f"mistakes: {sum(self.mistakes):,}, {self.mistakes[0]:,} of them within the genus; "
                f"mean height of the common ancestor {self.lca_height:.2f} of {ROOT}"
            )
        if self.danger is not None:
            lines += _danger_lines(self.danger, self.scores.oa)
        return lines + _unlisted_lines(self.taxonomy)


def _unlisted_lines(taxonomy: Taxonomy) -> list[str]:
    unlisted, of = len(taxonomy.unlisted), len(taxonomy.classes)
    if unlisted == of:
        return [
            "note: the species table has none of these classes, so nothing is said about families "
            "or edibility; --species names another table"
        ]
    if unlisted:
        return [
            f"note: {unlisted} of {of} classes are not in the species table; the first word of "
            "their name counts as their genus"
        ]
    return []


def _danger_lines(danger: Danger, oa: float) -> list[str]:
    plain = danger.plain
    cautious = next(each for each in danger.prices if each.sure == 0.95)
    return [
        f"dangerous: {plain.dangerous:,} of {danger.images:,} images of poisonous or deadly species "
        f"called edible ({plain.rate:.2%}; 95 %: {plain.interval.low:.2%} to "
        f"{plain.interval.high:.2%})",
        f"edible only if at least 95 % sure: {cautious.dangerous:,} ({cautious.rate:.2%}; "
        f"{cautious.interval.low:.2%} to {cautious.interval.high:.2%}), at OA {cautious.oa:.4f} for "
        f"{oa:.4f}",
        NOTICE,
    ]


def assess(outputs: Outputs, taxonomy: Taxonomy, temperature: float) -> Assessment:
    """Work out everything.

    Args:
        outputs: Of a split.
        taxonomy: Of its classes.
        temperature: Fitted on val.
    """
    confusion = outputs.confusion
    draws = Bootstrap(len(outputs))
    labels, predictions = outputs.labels, outputs.predictions
    hit5 = in_top(outputs.logits, labels, 5)
    log_likelihood = outputs.probabilities().gather(1, labels[:, None]).clamp_min(1e-300).log()
    drawn = {
        **draws.scores(labels.numpy(), predictions.numpy()),
        "top5": draws.means(hit5.numpy()),
        "nll": draws.means(-log_likelihood[:, 0].numpy()),
    }
    ranks = {}
    for rank in SCORED_RANKS:
        groups, names = taxonomy.groups(rank)
        if len(names) < len(taxonomy.classes):
            ranks[rank] = scores(merged(confusion, groups))
            by_group = draws.scores(groups[labels].numpy(), groups[predictions].numpy())
            drawn |= {f"{rank}/{name}": values for name, values in by_group.items()}
    mistakes = None
    wrong = labels != predictions
    if taxonomy.knows("family"):
        heights = taxonomy.heights[labels, predictions]
        mistakes = tuple(heights[wrong].bincount(minlength=ROOT + 1)[1:].tolist())
        if wrong.any():
            drawn["lca_height"] = draws.means(heights.numpy(), among=wrong.numpy())
    synonyms, _ = taxonomy.accepted
    return Assessment(
        taxonomy=taxonomy,
        scores=scores(confusion),
        top5=float(hit5.double().mean()),
        intervals={name: interval(values) for name, values in drawn.items()},
        calibration=_calibration(outputs, temperature),
        ranks=ranks,
        merged=scores(merged(confusion, synonyms)) if taxonomy.synonyms else None,
        mistakes=mistakes,
        danger=dangers(outputs, taxonomy, temperature),
        classes=class_scores(confusion),
        confusion=confusion,
    )


def full_row(
    checkpoint: Path,
    split: str,
    result: Evaluation,
    assessment: Assessment,
) -> dict[str, Any]:
    """What ``train.evaluate --json`` writes and a report shows: plain data for JSON."""
    return {
        "checkpoint": str(checkpoint),
        "split": split,
        **result.as_dict(),
        **assessment.as_dict(),
    }


def _calibration(outputs: Outputs, temperature: float) -> Calibration:
    plain, scaled = reliability(outputs), reliability(outputs, temperature)
    return Calibration(
        temperature=temperature,
        nll=negative_log_likelihood(outputs),
        nll_scaled=negative_log_likelihood(outputs, temperature),
        ece=calibration_error(plain),
        ece_scaled=calibration_error(scaled),
        bins=tuple(plain),
        bins_scaled=tuple(scaled),
    )
