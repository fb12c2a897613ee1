"""What a sweep found: one table, best val mIoU first; failed runs stand apart."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shards.machine import human_time
from shards.writer import write_file
from train.config.settings import as_text
from train.sweeps.sweep_run import Outcome

RESULTS, FAILED = "results.csv", "failed.csv"
SCORES = ("miou", "mf1", "oa")


def write_results(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Write ``results.csv``, and ``failed.csv`` if there is anything to put into it."""
    finished, failed = _best_first(outcomes), [each for each in outcomes if each.error]
    write_file(folder / RESULTS, _csv([_result_row(each) for each in finished]))
    if failed:
        write_file(folder / FAILED, _csv([_failed_row(each) for each in failed]))
    else:
        (folder / FAILED).unlink(missing_ok=True)


def table_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """The finished runs as aligned text."""
    rows = [
        {
            **_as_texts(each.values),
            "val mIoU": f"{summary['val_miou']:.4f}",
            **{f"test {name}": f"{value:.4f}" for name, value in _test_scores(summary).items()},
            "best epoch": f"{summary['best_epoch']:.3g}/{summary['epochs']:.3g}",
            "time": human_time(summary["seconds"]),
            "run": "" if each.folder is None else each.folder.name,
        }
        for each in _best_first(outcomes)
        if (summary := each.summary) is not None
    ]
    if not rows:
        return []
    columns = list(rows[0])
    cells = [columns, *([row.get(name, "") for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _best_first(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """By val: whoever chooses by test reports a score that is too good."""
    finished = [each for each in outcomes if each.summary is not None]
    return sorted(finished, key=lambda each: -(each.summary or {})["val_miou"])


def _result_row(outcome: Outcome) -> dict[str, Any]:
    summary = outcome.summary or {}
    return {
        **_as_texts(outcome.values),
        "val_miou": summary["val_miou"],
        **{f"test_{name}": value for name, value in _test_scores(summary).items()},
        "best_epoch": summary["best_epoch"],
        "epochs": summary["epochs"],
        "samples_seen": summary["samples_seen"],
        "seconds": summary["seconds"],
        "run": outcome.folder,
    }


def _failed_row(outcome: Outcome) -> dict[str, Any]:
    return {**_as_texts(outcome.values), "error": outcome.error, "run": outcome.folder}


def _test_scores(summary: Mapping[str, Any]) -> dict[str, float]:
    test = summary.get("test", {})
    return {name: test[name] for name in SCORES if name in test}


def _as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: as_text(name, each) for name, each in values.items()}


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    if rows:
        columns = dict.fromkeys(name for row in rows for name in row)
        table = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    return text.getvalue().encode()
