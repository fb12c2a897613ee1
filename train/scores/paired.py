"""Two runs on the same images: is one better, or can that not be said?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from shards.errors import UserError
from train.scores.intervals import Bootstrap, Interval, interval
from train.scores.metrics import in_top, scores
from train.scores.outputs import Outputs

SMALLER_IS_BETTER = frozenset({"nll"})


@dataclass(frozen=True, slots=True)
class Difference:
    """Of the second run from the first, in one metric."""

    metric: str
    value: float
    """Second minus first."""
    interval: Interval
    """95 %, paired bootstrap: both runs on the same draws of images."""

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, or ``undecided`` where the interval holds 0."""
        if self.interval.low <= 0 <= self.interval.high:
            return "undecided"
        rises = self.interval.low > 0
        return "better" if rises != (self.metric in SMALLER_IS_BETTER) else "worse"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "metric": self.metric,
            "second_minus_first": self.value,
            "interval": [self.interval.low, self.interval.high],
            "verdict": self.verdict,
        }

    def __str__(self) -> str:
        return (
            f"{self.metric}: {self.value:+.4f} (95 %: {self.interval.low:+.4f} to "
            f"{self.interval.high:+.4f}): {self.verdict}"
        )


def differences(first: Outputs, second: Outputs) -> list[Difference]:
    """Whether the second run is better than the first, metric by metric.

    Args:
        first: Of a split.
        second: Of the same images, in any order.

    Raises:
        UserError: They are not the same images.
    """
    first, second = _sorted(first), _sorted(second)
    if not (torch.equal(first.ids, second.ids) and torch.equal(first.labels, second.labels)):
        raise UserError(
            "the runs were not evaluated on the same images: other classes, folds or shard sets"
        )
    draws = Bootstrap(len(first))
    found = []
    drawn = [
        draws.scores(each.labels.numpy(), each.predictions.numpy()) for each in (first, second)
    ]
    plain = [scores(each.confusion).as_dict() for each in (first, second)]
    for name in ("miou", "mf1", "oa"):
        found.append(
            Difference(
                name, plain[1][name] - plain[0][name], interval(drawn[1][name] - drawn[0][name])
            )
        )
    hits = [in_top(each.logits, each.labels, 5).double() for each in (first, second)]
    losses = [_losses(each) for each in (first, second)]
    for name, (before, after) in (("top5", hits), ("nll", losses)):
        change = after - before
        found.append(Difference(name, float(change.mean()), interval(draws.means(change.numpy()))))
    return found


def _sorted(outputs: Outputs) -> Outputs:
    order = outputs.ids.argsort()
    return Outputs(outputs.logits[order], outputs.labels[order], outputs.ids[order])


def _losses(outputs: Outputs) -> torch.Tensor:
    """``(N,)`` negative log likelihood of each image."""
    return torch.nn.functional.cross_entropy(
        outputs.logits.double(), outputs.labels, reduction="none"
    )
