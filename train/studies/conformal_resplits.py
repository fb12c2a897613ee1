"""The study of prediction sets: calibrated on one part of val and test, tried on the other, many times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from shards.writer import write_file
from train.novelty.bank import FeatureBank
from train.runs.figures import encode_png
from train.scores.calibration import fit_temperature
from train.scores.conformal import prediction_sets, true_scores
from train.scores.intervals import Bootstrap, Interval, interval
from train.scores.outputs import Outputs
from train.studies.cells import Cells, Result, Values, run_cells, study_folder
from train.studies.chart import Curve, line_chart
from train.studies.storing import store
from train.studies.table import aligned, csv_bytes, with_interval

TABLE, PICTURE = "conformal.csv", "conformal.png"
FIGURES = ("coverage", "size", "empty")
"""Of a re-split: share of sets that hold the true class, mean number of classes, share without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the study is asked for."""

    coverages: tuple[float, ...]
    resplits: int
    store: bool
    seed: int
    folder: Path
    command: str
    """That goes on."""


def run_study(bank: FeatureBank, request: Request) -> None:
    """Run what is missing, print the table, and store val's scores.

    Raises:
        UserError: The checkpoint cannot be written to.
    """
    val, test = (outputs_of(bank, split) for split in ("val", "test"))
    pool = Outputs(
        torch.cat([val.logits, test.logits]),
        torch.cat([val.labels, test.labels]),
        torch.arange(len(val) + len(test)),
    )

    def make(values: Values) -> Result:
        return resplits(pool, len(val), values["coverage"], values["resplits"], request.seed)

    facts = {
        "features": bank.digest, "head": bank.head_digest,
        "known": bank.trained.saved.known.tolist(), "seed": request.seed,
    }  # fmt: skip
    points = [{"coverage": each, "resplits": request.resplits} for each in request.coverages]
    with study_folder(request.folder):
        results = run_cells(
            Cells(folder=request.folder, facts=facts), points, make, request.command
        )
        found = [
            {
                "coverage asked for": point["coverage"],
                "re-splits": point["resplits"],
                **summary(each),
            }
            for point, each in zip(points, results, strict=True)
        ]
        _report(found, request.folder, len(val), len(test))
    if request.store:
        temperature = bank.trained.temperature()
        scores = true_scores(val.probabilities(temperature), val.labels, _draws(len(val), 0))
        store(bank.trained.file, conformal=scores.sort().values)
        click.echo(
            f"stored in {bank.trained.file}: scores of {len(val):,} photographs of val, for "
            "`python -m train.predict --conformal`"
        )


def outputs_of(bank: FeatureBank, split: str) -> Outputs:
    """Logits of a split's photographs for the known classes alone, which labels count."""
    saved = bank.trained.saved
    samples = bank.of_split(split, saved.config.eval_subset(split))
    known = saved.known
    place = known.cumsum(0) - 1
    logits = bank.head.logits(samples.features).cpu()[:, known]
    return Outputs(logits, place[samples.labels.cpu()], torch.arange(len(samples)))


def resplits(
    pool: Outputs, calibrated_on: int, coverage: float, count: int, seed: int
) -> dict[str, list[float]]:
    """:data:`FIGURES` of each re-split.

    The temperature is fitted to the photographs that are calibrated on, too, as in a run to val.

    Args:
        pool: All photographs.
        calibrated_on: How many of them; the others are tested.
        coverage: What the sets are to have.
        count: Of re-splits.
        seed: Of them.
    """
    found: dict[str, list[float]] = {name: [] for name in FIGURES}
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        order = torch.from_numpy(rng.permutation(len(pool)))
        draws = torch.from_numpy(rng.random(len(pool)))
        val, test = order[:calibrated_on], order[calibrated_on:]
        of_val = Outputs(pool.logits[val], pool.labels[val], val)
        probabilities = pool.probabilities(fit_temperature(of_val))
        calibration = true_scores(probabilities[val], pool.labels[val], draws[val])
        sets = prediction_sets(probabilities[test], draws[test], calibration, coverage)
        sizes = sets.sum(1)
        hits = sets.gather(1, pool.labels[test][:, None])
        found["coverage"].append(float(hits.double().mean()))
        found["size"].append(float(sizes.double().mean()))
        found["empty"].append(float((sizes == 0).double().mean()))
    return found


def summary(result: Result) -> dict[str, float]:
    """Mean of each figure over the re-splits, and its interval."""
    found: dict[str, float] = {}
    for name in FIGURES:
        values = np.asarray(result[name], np.float64)
        span = interval(Bootstrap(len(values)).means(values))
        found |= {name: float(values.mean()), f"{name}_low": span.low, f"{name}_high": span.high}
    return found


def _report(found: list[dict[str, Any]], folder: Path, val: int, test: int) -> None:
    click.echo(
        f"calibrated on {val:,} of {val + test:,} photographs of val and test, tried on the other "
        f"{test:,}"
    )

    def cell(row: dict[str, Any], name: str) -> str:
        return with_interval(row[name], Interval(row[f"{name}_low"], row[f"{name}_high"]))

    rows = [
        {
            "asked for": f"{row['coverage asked for']:g}",
            "re-splits": str(row["re-splits"]),
            "coverage": cell(row, "coverage"),
            "classes in a set": cell(row, "size"),
            "empty sets": cell(row, "empty"),
        }
        for row in found
    ]
    for line in aligned(rows):
        click.echo(line)
    write_file(folder / TABLE, csv_bytes(found))
    curves = [
        Curve(
            name=name,
            x=[row["coverage asked for"] for row in found],
            y=[row[figure] for row in found],
            intervals=[Interval(row[f"{figure}_low"], row[f"{figure}_high"]) for row in found],
        )
        for figure, name in zip(
            FIGURES, ("coverage", "classes in a set", "empty sets"), strict=True
        )
    ]
    picture = line_chart(curves, x_label="coverage asked for", y_label="mean over re-splits")
    write_file(folder / PICTURE, encode_png(picture))
    click.echo(
        f"in brackets: 95 % intervals of the mean over the re-splits; {folder / TABLE}, {PICTURE}"
    )


def _draws(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(count))
