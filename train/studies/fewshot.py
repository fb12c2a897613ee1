"""Few shots, measured: episodes for each number of shots, resumable; a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from shards.writer import write_file
from train.novelty.episodes import Episodes
from train.novelty.fewshots import METHODS, PENALTY, TEMPERATURE, accuracies
from train.runs.figures import Picture, encode_png
from train.scores.intervals import Bootstrap, Interval, interval
from train.studies.cells import Cells, Result, Values, run_cells, study_folder
from train.studies.chart import Curve, line_chart
from train.studies.table import aligned, csv_bytes, with_interval

TABLE, PICTURE = "fewshot.csv", "fewshot.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the episodes of all numbers of shots share."""

    episodes: Episodes
    count: int
    """Episodes for each number of shots."""
    classes: tuple[str, ...]
    digest: str
    """Of the features."""
    folder: Path
    command: str
    """That goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Of a method, over episodes."""

    shots: int
    method: str
    episodes: int
    mean: float
    mean_interval: Interval
    """95 %: how far the mean could differ with other draws of episodes (bootstrap)."""
    middle: Interval
    """Within which 95 % of the single episodes lie: what one choice of photographs may bring."""


def measure(setting: Setting, shots: Sequence[int]) -> list[Accuracy]:
    """Draw the episodes, print the table, and write it with a picture into the folder."""
    drawn = setting.episodes
    facts = {
        "features": setting.digest, "classes": list(setting.classes), "ways": drawn.ways,
        "queries": drawn.queries, "seed": drawn.seed, "penalty": PENALTY, "temperature": TEMPERATURE,
    }  # fmt: skip

    def make(values: Values) -> Result:
        return {"accuracies": accuracies(drawn, values["shots"], values["episodes"])}

    points = [{"shots": each, "episodes": setting.count} for each in shots]
    with study_folder(setting.folder):
        cells = Cells(folder=setting.folder, facts=facts)
        results = run_cells(cells, points, make, setting.command)
        found = [
            summary(number, method, result["accuracies"][method])
            for number, result in zip(shots, results, strict=True)
            for method in METHODS
        ]
        write_file(setting.folder / TABLE, csv_bytes([_csv_row(each) for each in found]))
        write_file(setting.folder / PICTURE, encode_png(_picture(found)))
    click.echo(
        f"{drawn.ways} of {len(setting.classes)} new classes an episode, {len(drawn.pool):,} "
        f"photographs of them in all, {drawn.queries} queries a class"
    )
    for line in aligned([_text_row(number, found) for number in shots]):
        click.echo(line)
    click.echo(
        f"in brackets: 95 % interval of the mean over episodes; {setting.folder / TABLE} has more"
    )
    return found


def summary(shots: int, method: str, of_episodes: Sequence[float]) -> Accuracy:
    """Of the accuracies of single episodes."""
    values = np.asarray(of_episodes, np.float64)
    return Accuracy(
        shots=shots,
        method=method,
        episodes=len(values),
        mean=float(values.mean()),
        mean_interval=interval(Bootstrap(len(values)).means(values)),
        middle=interval(values),
    )


def _text_row(shots: int, found: Sequence[Accuracy]) -> dict[str, str]:
    row = {each.method: each for each in found if each.shots == shots}
    return {
        "shots": str(shots),
        "episodes": str(next(iter(row.values())).episodes),
        **{name: with_interval(each.mean, each.mean_interval) for name, each in row.items()},
    }


def _csv_row(each: Accuracy) -> dict[str, Any]:
    return {
        "shots": each.shots, "method": each.method, "episodes": each.episodes, "accuracy": each.mean,
        "low": each.mean_interval.low, "high": each.mean_interval.high,
        "episodes_low": each.middle.low, "episodes_high": each.middle.high,
    }  # fmt: skip


def _picture(found: Sequence[Accuracy]) -> Picture:
    curves = []
    for method in METHODS:
        rows = [each for each in found if each.method == method]
        curves.append(
            Curve(
                name=method,
                x=[each.shots for each in rows],
                y=[each.mean for each in rows],
                intervals=[each.mean_interval for each in rows],
            )
        )
    return line_chart(curves, x_label="shots", y_label="accuracy")
