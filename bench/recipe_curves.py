"""mIoU of recipes against what they compute and against minutes: a row for each recipe and length."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from bench.load import was_busy
from bench.recipe_runs import BOTH, SPLITS, FinalRun
from bench.result import NOT_MEASURED, Result, Section, number, text_table
from shards.machine import human_time

HEADER = (
    "recipe", "epochs", "samples seen", "TFLOP", "of it", "time", "mIoU val + test", "95 %", "val", "test",
    "seeds",
)  # fmt: skip
STUDENT_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Quantiles of Student's t with 1, 2, ... degrees of freedom at 0.975; with more, the last is too wide."""


def curves_section(runs: Sequence[FinalRun], shards: str) -> Section:
    """The runs as data: their scores are the repeats of a result for each recipe and length.

    Args:
        runs: Of the first recipe first; its longest one is what the others are compared with.
        shards: What they were trained on.
    """
    groups: dict[tuple[str, int], list[FinalRun]] = {}
    for run in runs:
        groups.setdefault((run.recipe, run.epochs), []).append(run)
    results = tuple(_result(group) for group in groups.values())
    first = [each for each in results if each.details["recipe"] == runs[0].recipe]
    reference = max(first, key=lambda each: int(each.details["epochs"]))
    busy = [run.cores_of_others for run in runs if was_busy(run.cores_of_others)]
    notes = (
        f"mIoU of the last weights, mean over seeds, on the images of {BOTH} together; 95 % of the mean: "
        "Student's t over seeds",
        "TFLOP: forward and backward of the training images; time: whole runs",
        *(
            [
                f"{len(busy)} of {len(runs)} runs had other processes beside them (up to "
                f"{max(each or 0 for each in busy):.1f} cores): their times are too long"
            ]
            if busy
            else []
        ),
    )
    return Section(
        name="recipes",
        title=f"recipes on {shards}: {len(runs)} runs, each with its schedule at its end",
        results=results,
        reference=reference.name,
        settings={"shards": shards},
        notes=notes,
    )


def _result(group: Sequence[FinalRun]) -> Result:
    one = group[0]
    return Result(
        name=f"{one.recipe}, {one.epochs} epochs",
        repeats=tuple(each.miou[BOTH] for each in group),
        unit="mIoU",
        note=f"{one.arch}, {one.image_size} px",
        details={
            "recipe": one.recipe,
            "epochs": one.epochs,
            "tflop": one.tflop,
            "samples_seen": one.samples_seen,
            "seeds": [each.seed for each in group],
            "seconds": [each.seconds for each in group],
            "cores_of_others": [each.cores_of_others for each in group],
            **{split: [each.miou[split] for each in group] for split in SPLITS},
        },
    )


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of a mean, by Student's t; None of a single value."""
    if len(values) < 2:
        return None
    return _student(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def difference(values: Sequence[float], others: Sequence[float]) -> tuple[float, float | None]:
    """Mean of ``values`` less that of ``others``, and half of its 95 % interval.

    Welch's standard error, with the degrees of freedom of the smaller sample: never too narrow.
    """
    found = statistics.fmean(values) - statistics.fmean(others)
    count = min(len(values), len(others))
    if count < 2:
        return found, None
    error = math.sqrt(sum(statistics.variance(each) / len(each) for each in (values, others)))
    return found, _student(count - 1) * error


def _student(freedom: int) -> float:
    return STUDENT_975[min(freedom, len(STUDENT_975)) - 1]


def render_curves(section: Section) -> str:
    """The rows as text, and what they say of each other."""
    rows = [[*HEADER], *curve_rows(section)]
    rows[0][HEADER.index("of it")] = f"of {section.reference}"
    lines = [section.title, *(f"  {line}" for line in text_table(rows))]
    lines += [f"  {line}" for line in comparisons(section)]
    return "\n".join([*lines, *(f"  note: {note}" for note in section.notes)])


def markdown(section: Section) -> str:
    """The same for a document."""
    header = list(HEADER)
    header[HEADER.index("of it")] = f"of {section.reference}"
    rows = [header, ["---"] * len(header), *curve_rows(section)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    said = "\n".join(f"- {line}" for line in comparisons(section))
    return "\n\n".join([section.title, table, said, "\n".join(section.notes)]) + "\n"


def curve_rows(section: Section) -> list[list[str]]:
    """Cells under :data:`HEADER`."""
    reference = _reference(section)
    return [_cells(each, reference) for each in section.results]


def comparisons(section: Section) -> list[str]:
    """A sentence for each row of another recipe, beside the reference."""
    reference = _reference(section)
    at = reference.details
    return [
        f"{each.name}: {each.details['tflop'] / at['tflop']:.0%} of the TFLOP and "
        f"{_mean(each.details['seconds']) / _mean(at['seconds']):.0%} of the time of "
        f"{reference.name}, mIoU {_signed(*difference(each.repeats, reference.repeats))}"
        for each in section.results
        if each.details["recipe"] != at["recipe"]
    ]


def _cells(result: Result, reference: Result) -> list[str]:
    details: dict[str, Any] = result.details
    half = half_width(result.repeats)
    return [
        details["recipe"],
        str(details["epochs"]),
        f"{details['samples_seen']:,}",
        number(details["tflop"]),
        f"{details['tflop'] / reference.details['tflop']:.0%}",
        human_time(_mean(details["seconds"])),
        f"{_mean(result.repeats):.3f}",
        NOT_MEASURED if half is None else f"± {half:.3f}",
        *(f"{_mean(details[split]):.3f}" for split in SPLITS),
        str(len(result.repeats)),
    ]


def _reference(section: Section) -> Result:
    found = section.find(section.reference or "")
    assert found is not None
    return found


def _signed(value: float, half: float | None) -> str:
    text = f"{value:+.3f}"
    return (
        f"{text} (one seed)"
        if half is None
        else f"{text} (95 %: {value - half:+.3f} to {value + half:+.3f})"
    )


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)
