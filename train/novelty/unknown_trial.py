"""Some classes taken for unknown: how well each score tells their photographs from the known ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from loaders.subset import Subset
from train.engine.logistic import Head, LogisticRegression, Samples, importance_of
from train.engine.point_fit import Points
from train.engine.probe import best_head
from train.novelty.bank import FeatureBank
from train.scores.detection import Scores, auroc, detection, roc_curve
from train.scores.intervals import rate_interval
from train.scores.unknown import (
    NEED_FEATURES,
    SCORE_OF,
    SCORES,
    Known,
    Score,
    UnknownDetector,
    remember,
    threshold_at,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Photographs:
    """Features of each split, known classes and others."""

    train: Samples
    val: Samples
    test: Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A head, and the classes that it has seen."""

    head: Head | Points
    known: torch.Tensor
    """``(K,)`` bool."""

    def scores(self, score: Score, features: torch.Tensor, remembered: Known) -> Scores:
        """``(N,)`` of ``(N, D)`` features."""
        logits = self.head.logits(features)[:, self.known]
        return SCORE_OF[score](logits, features, remembered).double().cpu().numpy()

    def knows(self, samples: Samples) -> torch.Tensor:
        """``(N,)`` bool."""
        return self.known[samples.labels]

    def remembered(self, train: Samples) -> Known:
        """Of the training photographs that it has seen."""
        seen = self.knows(train)
        return remember(train.features[seen], train.labels[seen])

    def detector(self, score: Score, photographs: Photographs, recall: float) -> UnknownDetector:
        """With the threshold that lets a share of val's known photographs pass."""
        remembered, val = self.remembered(photographs.train), photographs.val
        of_val = self.scores(score, val.features[self.knows(val)], remembered)
        return UnknownDetector(
            score=score,
            threshold=threshold_at(torch.from_numpy(of_val), recall),
            recall=recall,
            known=remembered if score in NEED_FEATURES else None,
        )


def photographs_of(bank: FeatureBank) -> Photographs:
    """Of all classes: those of the run as the run has them, and those that it held out."""
    saved = bank.trained.saved
    names = zip(saved.class_names, saved.known.tolist(), strict=True)
    held_out = tuple(name for name, known in names if not known)
    parts = {}
    for split in ("train", "val", "test"):
        of_run = saved.config.train_subset if split == "train" else saved.config.eval_subset(split)
        features = [bank.of_split(split, of_run)]
        if held_out:
            others = Subset(classes=held_out)
            if of_run.fold is not None:
                others = replace(
                    of_run, classes=held_out, holdout=(), mini=None, shots=None, imbalance=None
                )
            features.append(bank.of_split(split, others))
        parts[split] = Samples(
            torch.cat([each.features for each in features]),
            torch.cat([each.labels for each in features]),
        )
    return Photographs(**parts)


def drawn_model(
    photographs: Photographs, num_classes: int, draw: int, count: int, seed: int
) -> Model:
    """A head of a probe that has not seen some classes, drawn at random; each class weighs the same.

    Args:
        photographs: Of all classes.
        num_classes: K.
        draw: Its number.
        count: Classes to leave out.
        seed: Of the draws.
    """
    present = np.unique(photographs.train.labels.cpu().numpy())
    left_out = np.random.default_rng([seed, draw]).choice(present, count, replace=False)
    known = torch.zeros(num_classes, dtype=torch.bool, device=photographs.train.labels.device)
    known[torch.from_numpy(np.setdiff1d(present, left_out)).to(known.device)] = True
    train, val = (
        Samples(each.features[known[each.labels]], each.labels[known[each.labels]])
        for each in (photographs.train, photographs.val)
    )
    importance = importance_of("balanced", train.labels, torch.ones_like(train.labels))
    fit = LogisticRegression(train, importance, num_classes).fit
    return Model(head=best_head(fit, train, val, num_classes)[0], known=known)


def trial(model: Model, photographs: Photographs, recall: float) -> dict[str, Any]:
    """What each score is worth, as plain data: by its name.

    A threshold is chosen on val's known photographs; all figures but ``val_auroc`` are of test.
    """
    remembered = model.remembered(photographs.train)
    found: dict[str, Any] = {}
    for score in SCORES:
        known, unknown = {}, {}
        for split in ("val", "test"):
            samples: Samples = getattr(photographs, split)
            values, is_known = (
                model.scores(score, samples.features, remembered),
                model.knows(samples),
            )
            mask = is_known.cpu().numpy()
            known[split], unknown[split] = values[mask], values[~mask]
        threshold = threshold_at(torch.from_numpy(known["val"]), recall)
        found[score] = {
            **asdict(detection(known["test"], unknown["test"], recall)),
            "val_auroc": auroc(known["val"], unknown["val"]),
            "known": len(known["test"]),
            "unknown": len(unknown["test"]),
            **_passed("known_passed", known["test"] >= threshold),
            **_passed("unknown_passed", unknown["test"] >= threshold),
            "roc": roc_curve(known["test"], unknown["test"])[0],
        }
    return found


def _passed(name: str, passes: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The share of photographs that pass, and its interval."""
    hits = int(passes.sum())
    span = rate_interval(hits, len(passes))
    return {name: hits / len(passes), f"{name}_interval": asdict(span)}
