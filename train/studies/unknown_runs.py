"""The study of unknown species: its runs, what they say together, and what predict needs of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import click
import numpy as np

from shards.errors import UserError
from shards.writer import write_file
from train.novelty.bank import FeatureBank
from train.novelty.unknown_trial import Model, Photographs, drawn_model, photographs_of, trial
from train.runs.figures import encode_png
from train.scores.intervals import Bootstrap, Interval, interval
from train.scores.unknown import BANK, NEIGHBOURS, SCORES, Score
from train.studies.cells import Cells, Result, Values, run_cells, study_folder
from train.studies.chart import Curve, line_chart
from train.studies.storing import store
from train.studies.table import aligned, csv_bytes, with_interval

TABLE, PICTURE = "unknown.csv", "unknown.png"
FIGURES = ("auroc", "fpr", "known_passed", "unknown_passed")
LEAVE_OUT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the study is asked for."""

    draws: int
    leave_out: int | None
    recall: float
    score: str | None
    store: bool
    seed: int
    folder: Path
    command: str
    """That goes on."""


def run_study(bank: FeatureBank, request: Request) -> None:
    """Run what is missing, print the tables, and store the detector.

    Raises:
        UserError: Nothing is unknown to the model, or its checkpoint cannot be written to.
    """
    saved, recall = bank.trained.saved, request.recall
    held_out = int((~saved.known).sum())
    is_probe = saved.config.head == "only"
    if request.draws and not is_probe:
        raise UserError(
            "--draws is for a run of --recipe probe: this network was trained on the classes of the "
            "run, and would know them"
        )
    if not held_out and not request.draws:
        way_on = "add --draws 20" if is_probe else "train with --holdout A,B"
        raise UserError(f"the run held no class out, so nothing is unknown to it; {way_on}")
    leave_out = request.leave_out or held_out or LEAVE_OUT
    if request.draws and leave_out > len(saved.class_names) - 2:
        raise UserError(
            f"--leave-out {leave_out} of {len(saved.class_names)} classes leaves fewer than two; "
            "choose fewer"
        )
    own = Model(head=bank.head, known=saved.known.to(bank.trained.resolved.device))
    photographs = photographs_of(bank)

    def make(values: Values) -> Result:
        draw = values["draw"]
        model = own
        if draw:
            model = drawn_model(photographs, bank.num_classes, draw, leave_out, request.seed)
        return trial(model, photographs, recall)

    facts = {
        "features": bank.digest, "known": saved.known.tolist(), "enrolled": saved.enrolled,
        "head": bank.head_digest, "leave_out": leave_out, "recall": recall, "seed": request.seed,
        "neighbours": NEIGHBOURS, "bank": BANK, "scores": list(SCORES),
    }  # fmt: skip
    points = [{"draw": each} for each in range(0 if held_out else 1, request.draws + 1)]
    with study_folder(request.folder):
        results = run_cells(
            Cells(folder=request.folder, facts=facts), points, make, request.command
        )
        of_run, of_draws = (results[:1], results[1:]) if held_out else ([], results)
        _report(request, of_run, of_draws, held_out, leave_out)
    chosen = cast(Score, request.score) or best_on_val(of_run or of_draws)
    if request.store:
        _store(bank, own, photographs, chosen, recall)


def best_on_val(results: Sequence[Result]) -> Score:
    """The score with the best mean AUROC on val: test is not asked."""
    return max(SCORES, key=lambda score: sum(each[score]["val_auroc"] for each in results))


def _store(
    bank: FeatureBank, own: Model, photographs: Photographs, chosen: Score, recall: float
) -> None:
    detector = own.detector(chosen, photographs, recall)
    store(bank.trained.file, unknown=asdict(detector))
    click.echo(
        f"stored in {bank.trained.file}: {chosen}, unknown below {detector.threshold:.6g}, which lets "
        f"{recall:.0%} of val's photographs of known species pass"
    )


def _report(
    request: Request,
    of_run: Sequence[Result],
    of_draws: Sequence[Result],
    held_out: int,
    leave_out: int,
) -> None:
    rows: list[dict[str, Any]] = []
    curves: list[Curve] = []
    for results, title, classes in (
        (of_run, "held out by the run", held_out),
        (of_draws, "drawn at random", leave_out),
    ):
        if not results:
            continue
        first = results[0][SCORES[0]]
        click.echo(
            f"\nunknown: {classes} classes {title}; test, {first['known']:,} photographs of known and "
            f"{first['unknown']:,} of unknown species{' in the first run' * (len(results) > 1)}"
        )
        of_scores = {score: summary([each[score] for each in results]) for score in SCORES}
        for line in aligned([_text_row(*each, request.recall) for each in of_scores.items()]):
            click.echo(line)
        rows += [{"unknown": title, "score": score} | each for score, each in of_scores.items()]
        if not curves:
            curves = [_roc(score, [each[score]["roc"] for each in results]) for score in SCORES]
    write_file(request.folder / TABLE, csv_bytes(rows))
    picture = line_chart(
        curves, x_label="share of unknown that pass", y_label="share of known that pass"
    )
    write_file(request.folder / PICTURE, encode_png(picture))
    click.echo(
        "in brackets: 95 % intervals, of one run over its photographs, of several over the runs; "
        f"{request.folder / TABLE}, {PICTURE}"
    )


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of one score: of a single run with intervals over photographs, of several over the runs."""
    found: dict[str, Any] = {"runs": len(runs)}
    for name in FIGURES:
        values = [run[name] for run in runs]
        span = Interval(**runs[0][f"{name}_interval"])
        if len(runs) > 1:
            span = interval(Bootstrap(len(runs)).means(values))
        found |= {name: float(np.mean(values)), f"{name}_low": span.low, f"{name}_high": span.high}
    return found


def _text_row(score: str, found: Mapping[str, Any], recall: float) -> dict[str, str]:
    def cell(name: str) -> str:
        return with_interval(found[name], Interval(found[f"{name}_low"], found[f"{name}_high"]))

    return {
        "score": score,
        "runs": str(found["runs"]),
        "AUROC": cell("auroc"),
        f"FPR at {recall:.0%} recall": cell("fpr"),
        "at val's threshold pass: known": cell("known_passed"),
        "unknown": cell("unknown_passed"),
    }


def _roc(score: str, rates: Sequence[Sequence[float]]) -> Curve:
    """At each share of the known that pass, the mean share of the unknown over the runs."""
    mean = np.mean(rates, axis=0)
    return Curve(name=score, x=mean.tolist(), y=np.linspace(0, 1, len(mean)).tolist())
