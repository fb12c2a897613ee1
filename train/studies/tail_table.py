"""What a study of long tails found: a table, whether any way is better than none, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch

from shards.writer import write_file
from train.config.config import TrainConfig
from train.runs.figures import encode_png
from train.scores.intervals import RESAMPLES, Bootstrap, Draws, Interval, interval
from train.scores.metrics import class_scores, scores
from train.scores.outputs import confusion_of
from train.scores.paired import Difference
from train.studies.chart import Curve, line_chart
from train.studies.table import aligned, csv_bytes, with_interval
from train.studies.tail_runs import TailResult

TABLE, PICTURE = "imbalance.csv", "imbalance.png"
METRICS = ("mf1", "miou", "oa")
THIRDS = ("frequent", "middle", "rare")
"""Of the classes, by their training photographs."""
SEED = 1
"""Of the draws of tails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to deal with tails, over all of them."""

    rebalance: str
    runs: int
    values: dict[str, float]
    """Of :data:`METRICS`: means over the runs."""
    intervals: dict[str, Interval]
    draws: dict[str, Draws]
    """``(R,)`` each: of tails and test photographs, the same for every way."""
    recall: npt.NDArray[np.float64]
    """``(K,)`` mean recall, from the most frequent class of each tail to the rarest."""

    def third(self, name: str) -> float:
        """Mean recall of a third of the classes."""
        return float(np.nanmean(np.array_split(self.recall, 3)[THIRDS.index(name)]))


def summarise(tested: Sequence[TailResult]) -> list[Way]:
    """The ways in the order in which they were asked for.

    A draw takes as many tails and as many test photographs as there are, with replacement; its value is
    the mean over its tails. So an interval holds what other tails and other photographs might bring.

    Args:
        tested: Each way on each tail.
    """
    words = list(dict.fromkeys(each.rebalance for each in tested))
    tails = len({each.tail for each in tested})
    images = Bootstrap(len(tested[0].labels))
    drawn = np.random.default_rng(SEED).integers(tails, size=(tails, RESAMPLES))
    return [
        _way([each for each in tested if each.rebalance == word], images, drawn) for word in words
    ]


def _way(runs: Sequence[TailResult], images: Bootstrap, drawn: npt.NDArray[np.int64]) -> Way:
    runs = sorted(runs, key=lambda each: each.tail)
    values = [scores(_confusion(each)).as_dict() for each in runs]
    by_run = [images.scores(each.labels, each.predictions) for each in runs]
    draws = {
        name: np.take_along_axis(np.stack([each[name] for each in by_run]), drawn, 0).mean(0)
        for name in METRICS
    }
    return Way(
        rebalance=runs[0].rebalance,
        runs=len(runs),
        values={name: float(np.mean([each[name] for each in values])) for name in METRICS},
        intervals={name: interval(each) for name, each in draws.items()},
        draws=draws,
        recall=np.nanmean([_recall_by_rank(each) for each in runs], 0),
    )


def _confusion(run: TailResult) -> torch.Tensor:
    labels, predictions = torch.from_numpy(run.labels), torch.from_numpy(run.predictions)
    return confusion_of(labels, predictions, len(run.photographs))


def _recall_by_rank(run: TailResult) -> npt.NDArray[np.float64]:
    """``(K,)`` from the class with most training photographs to that with fewest."""
    recall = class_scores(_confusion(run)).recall.numpy()
    return np.asarray(recall[np.argsort(-run.photographs, kind="stable")])


def compared(ways: Sequence[Way], metric: str = "mf1") -> list[tuple[str, Difference]]:
    """Each way but ``none`` with its difference from that, on the same tails and photographs."""
    plain = next((each for each in ways if each.rebalance == "none"), None)
    if plain is None:
        return []
    return [
        (
            each.rebalance,
            Difference(
                metric,
                each.values[metric] - plain.values[metric],
                interval(each.draws[metric] - plain.draws[metric]),
            ),
        )
        for each in ways
        if each is not plain
    ]


def report(tested: Sequence[TailResult], folder: Path, config: TrainConfig) -> None:
    """Print the table, and write it with a picture into the folder of the study."""
    ways = summarise(tested)
    differences = dict(compared(ways))
    write_file(
        folder / TABLE,
        csv_bytes([_csv_row(each, differences.get(each.rebalance)) for each in ways]),
    )
    write_file(folder / PICTURE, encode_png(_picture(ways)))
    sizes = [each.photographs[each.photographs > 0] for each in tested]
    click.echo(
        f"\nimbalance {config.imbalance:g}: {min(map(min, sizes))} to {max(map(max, sizes))} training "
        f"photographs a class, {len(tested[0].labels):,} test photographs"
    )
    for line in aligned([_text_row(each) for each in ways]):
        click.echo(line)
    for word, difference in differences.items():
        click.echo(f"{word} less none, {difference}")
    click.echo(
        f"means over the runs; 95 % intervals over tails and test photographs; written to {folder / TABLE}"
    )


def _text_row(way: Way) -> dict[str, str]:
    return {
        "rebalance": way.rebalance,
        "runs": str(way.runs),
        "mF1": with_interval(way.values["mf1"], way.intervals["mf1"]),
        "mIoU": f"{way.values['miou']:.4f}",
        "OA": f"{way.values['oa']:.4f}",
        **{f"recall {name}": f"{way.third(name):.4f}" for name in THIRDS},
    }


def _csv_row(way: Way, difference: Difference | None) -> dict[str, Any]:
    row: dict[str, Any] = {"rebalance": way.rebalance, "runs": way.runs}
    for name in METRICS:
        span = way.intervals[name]
        row |= {name: way.values[name], f"{name}_low": span.low, f"{name}_high": span.high}
    row |= {f"recall_{name}": way.third(name) for name in THIRDS}
    names = ("mf1_less_none", "mf1_less_none_low", "mf1_less_none_high")
    if difference is None:
        return row | dict.fromkeys(names, "")
    span = difference.interval
    return row | dict(zip(names, (difference.value, span.low, span.high), strict=True))


def _picture(ways: Sequence[Way]) -> npt.NDArray[np.uint8]:
    curves = [
        Curve(name=each.rebalance, x=range(1, len(each.recall) + 1), y=each.recall.tolist())
        for each in ways
    ]
    return line_chart(
        curves, x_label="class, from the most to the least frequent", y_label="recall"
    )
