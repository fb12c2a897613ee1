"""The runs of a study of long tails: each way on each tail, and what it says of every test photograph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from loaders.draws import Ids
from shards.errors import JobError
from shards.reader import ShardSet
from train.config.config import TrainConfig
from train.config.grid import Point, digest_of
from train.config.safety import Safety
from train.config.settings import Layer, settle
from train.config.source import ShardSource
from train.inference.trained import open_trained
from train.studies.cells import Cells, Values, run_cells, study_folder
from train.sweeps.sweep_run import run_point, state_of

RUNS = "runs"
SPLIT = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class TailResult:
    """What a run that trained on a tail makes of test."""

    rebalance: str
    tail: int
    labels: Ids
    """``(N,)`` true classes, the same in all runs."""
    predictions: Ids
    """``(N,)``."""
    photographs: Ids
    """``(K,)`` of each class in training."""


def tail_points(words: Sequence[str], tails: int, layers: Sequence[Layer]) -> list[Point]:
    """A run for each tail and each way; on one tail, all ways see the same photographs.

    Raises:
        UserError: The fields contradict each other.
    """
    return [
        Point(
            {"rebalance": word, "tail": tail},
            settle(
                [
                    Layer("the study", {"rebalance": word, "seed": tail, "subset_seed": tail}),
                    *layers,
                ]
            ).config,
        )
        for tail in range(tails)
        for word in words
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where the runs are, and what they train on."""

    folder: Path
    source: ShardSource
    fingerprint: str
    """Of the shard set."""
    command: str
    """That goes on."""

    def run(self, points: Sequence[Point]) -> list[TailResult]:
        """Bring every run to its end and test it; what is done already is taken as it is.

        Raises:
            Interrupted: A signal asked to stop; everything is saved.
            JobError: A run failed.
        """
        cells = Cells(folder=self.folder, facts={"shards": self.fingerprint, "split": SPLIT})
        by_values = {_cell(each)["run"]: each for each in points}
        with study_folder(self.folder):
            results = run_cells(
                cells,
                [_cell(each) for each in points],
                lambda values: self._make(by_values[values["run"]]),
                self.command,
            )
        return [
            TailResult(
                rebalance=point.values["rebalance"],
                tail=point.values["tail"],
                **{name: np.asarray(each, np.int64) for name, each in result.items()},
            )
            for point, result in zip(points, results, strict=True)
        ]

    def _make(self, point: Point) -> Mapping[str, Any]:
        place = self.folder / RUNS / point.name(self.fingerprint)
        click.echo(f"\n{state_of(place)}: {point}")
        outcome = run_point(point, place, self.source, Safety())
        if outcome.error:
            raise JobError(
                f"the run of {point} failed: {outcome.error}; the same command tries again"
            )
        with open_trained(place, str(self.source.url or self.source.directory)) as trained:
            _, outputs = trained.evaluate(SPLIT)
        return {
            "labels": outputs.labels.tolist(),
            "predictions": outputs.predictions.tolist(),
            "photographs": photographs(point.config, self.source.directory).tolist(),
        }


def photographs(config: TrainConfig, shards: Path) -> Ids:
    """``(K,)`` different training photographs of each class."""
    opened = ShardSet(shards)
    with opened.split("train") as split:
        kept = config.train_subset.repeats(split) > 0
        return np.bincount(split.labels[kept], minlength=opened.manifest.num_classes)


def _cell(point: Point) -> Values:
    return {**point.values, "run": digest_of(point.config.to_dict())}
