"""Runs side by side, as lines of text and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shards.machine import human_time
from train.report.content import Content
from train.report.page import plain, render

COLUMNS = (
    "run",
    "arch",
    "recipe",
    "px",
    "epochs",
    "time",
    "images",
    "mIoU",
    "mF1",
    "OA",
    "top-5",
    "ECE",
)
CURVES = (
    ("miou", "val/miou", "mIoU on val"),
    ("loss", "val/loss", "loss on val"),
    ("speed", "train/images_per_s", "training images/s"),
)


def run_rows(contents: Sequence[Content]) -> list[list[str]]:
    """A row of :data:`COLUMNS` a run."""
    return [
        [
            str(each.run),
            each.summary["arch"],
            each.summary["recipe"],
            str(each.summary["image_size"]),
            str(each.summary["epochs"]),
            human_time(each.summary["seconds"]),
            f"{each.row['images']:,}",
            *(f"{each.row[name]:.4f}" for name in ("miou", "mf1", "oa", "top5")),
            f"{each.row['calibration']['ece']:.4f}",
        ]
        for each in contents
    ]


def run_table(contents: Sequence[Content]) -> list[str]:
    """The rows below a heading, in columns."""
    rows = [list(COLUMNS), *run_rows(contents)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def compare_page(contents: Sequence[Content], verdicts: Sequence[str]) -> str:
    """HTML: the table, the verdicts, curves of all runs over the images seen."""
    return render(
        "compare.html",
        {name: _curves(contents, key, title) for name, key, title in CURVES},
        columns=COLUMNS,
        rows=run_rows(contents),
        verdicts=verdicts,
        runs=[str(each.run) for each in contents],
    )


def _curves(contents: Sequence[Content], key: str, title: str) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure(
        layout={
            "template": "plotly_white", "height": 340, "legend": {"orientation": "h", "y": 1.15},
            "margin": {"t": 30, "l": 55, "r": 15, "b": 45},
            "xaxis": {"title": "images seen"}, "yaxis": {"title": title},
        }
    )  # fmt: skip
    for each in contents:
        drawn = [line for line in each.epochs if key in line and "samples_seen" in line]
        figure.add_scatter(
            x=[line["samples_seen"] for line in drawn],
            y=[line[key] for line in drawn],
            name=plain(str(each.run)),
            mode="lines+markers",
        )
    return figure
