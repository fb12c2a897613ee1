"""Dangerous confusions: a poisonous or deadly species called edible; and what avoiding them costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from train.scores.intervals import Interval, rate_interval
from train.scores.outputs import Outputs
from train.scores.species import DANGEROUS, Taxonomy

NOTICE = (
    "No model decides what may be eaten: ask an expert who has the mushroom in hand. The edibility "
    "of the species table is a coarse summary without references."
)
SURE = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Thresholds of the price curve."""


@dataclass(frozen=True, slots=True)
class Price:
    """What the rule "edible only if at least p sure" does to a split.

    An image is called edible if the predicted species is edible and the probabilities of all edible
    species add up to at least ``sure``. If they do not, it gets no answer, which counts as wrong.
    """

    sure: float
    dangerous: int
    """Images of poisonous and deadly species that are called edible all the same."""
    rate: float
    """Of those, among all images of poisonous and deadly species."""
    interval: Interval
    edible_found: float
    """Share of the images of edible species that are called edible."""
    oa: float
    """Share of all images whose species is named rightly."""


@dataclass(frozen=True, slots=True)
class Danger:
    """Of a split."""

    images: int
    """Of poisonous and deadly species."""
    prices: tuple[Price, ...]
    """From the plain prediction (``sure`` 0) upwards."""
    confusions: tuple[tuple[int, int, int], ...]
    """True class, predicted class, images: the dangerous ones, the most frequent first."""

    @property
    def plain(self) -> Price:
        """Without any rule."""
        return self.prices[0]


def dangers(outputs: Outputs, taxonomy: Taxonomy, temperature: float) -> Danger | None:
    """The dangerous confusions of a split.

    Args:
        outputs: Of the split.
        taxonomy: Of its classes.
        temperature: With which logits become probabilities.

    Returns:
        None where no image of the split is of a dangerous species, or no class is edible.
    """
    edible = taxonomy.with_edibility("edible")
    dangerous = taxonomy.with_edibility(*DANGEROUS)
    threatens = dangerous[outputs.labels]
    if not threatens.any() or not edible.any():
        return None
    predictions = outputs.predictions
    called = edible[predictions]
    sureness = outputs.probabilities(temperature)[:, edible].sum(1)
    prices = [_price(sure, outputs, threatens, called, sureness, edible) for sure in SURE]
    confused = threatens & called
    pairs = zip(outputs.labels[confused].tolist(), predictions[confused].tolist(), strict=True)
    found = [(true, predicted, images) for (true, predicted), images in Counter(pairs).items()]
    return Danger(
        images=int(threatens.sum()),
        prices=tuple(prices),
        confusions=tuple(sorted(found, key=lambda each: (-each[2], each[:2]))),
    )


def _price(
    sure: float,
    outputs: Outputs,
    threatens: torch.Tensor,
    called: torch.Tensor,
    sureness: torch.Tensor,
    edible: torch.Tensor,
) -> Price:
    silent = called & (sureness < sure)
    still_called = called & ~silent
    dangerous, of = int((threatens & still_called).sum()), int(threatens.sum())
    is_edible = edible[outputs.labels]
    right = (outputs.predictions == outputs.labels) & ~silent
    return Price(
        sure=sure,
        dangerous=dangerous,
        rate=dangerous / of,
        interval=rate_interval(dangerous, of),
        edible_found=_share(is_edible & still_called, is_edible),
        oa=float(right.double().mean()),
    )


def _share(some: torch.Tensor, of: torch.Tensor) -> float:
    return float(some.sum() / of.sum()) if of.any() else 0.0
