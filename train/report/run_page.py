"""The page about a run."""

from __future__ import annotations

import json
from typing import Any

from shards.machine import human_time
from train.report.content import Content
from train.report.figures import (
    confusion_map,
    curves,
    iou_sunburst,
    price_curve,
    reliability_diagram,
)
from train.report.page import render
from train.scores.danger import NOTICE

RESULTS = (("miou", "mIoU"), ("mf1", "mF1"), ("oa", "OA"), ("top5", "top-5"))
RANK_NAMES = ("genus", "family", "order", "synonyms_merged")


def run_page(content: Content) -> str:
    """HTML; every figure on it is of ``content.row`` or of the run's own record."""
    row, taxonomy = content.row, content.taxonomy
    figures = {
        "confusion": confusion_map(row["confusion"], taxonomy),
        "tree": iou_sunburst(row["confusion"], taxonomy),
        "reliability": reliability_diagram(row["calibration"]),
    }
    if content.epochs:
        figures |= {
            "loss": curves(content.epochs, {"train/loss": "train", "val/loss": "val"}, "loss"),
            "scores": curves(
                content.epochs, {"val/miou": "mIoU", "val/mf1": "mF1", "val/oa": "OA"}, "val"
            ),
            "speed": curves(
                content.epochs, {"train/images_per_s": "images/s"}, "training images/s"
            ),
            "wait": curves(
                content.epochs, {"train/data_wait": "data wait"}, "share of time waiting for data"
            ),
        }
    if row["danger"] is not None:
        figures["price"] = price_curve(row["danger"]["prices"])
    summary = content.summary
    return render(
        "run.html",
        figures,
        title=f"{summary['arch']}, {summary['recipe']}",
        row=row,
        results=[
            {"name": name, "value": row[key], "interval": row["intervals"][key]}
            for key, name in RESULTS
        ],
        ranks=[(name.replace("_", " "), row[name]) for name in RANK_NAMES if row.get(name)],
        classes=_class_rows(row),
        mistakes=content.mistakes,
        published=content.published,
        summary=summary,
        time=human_time(summary["seconds"]),
        data_wait=_mean(content, "train/data_wait"),
        train_speed=_mean(content, "train/images_per_s"),
        command=content.config.get("command", "not recorded"),
        config=json.dumps(content.config.get("config", {}), indent=1),
        resolved=summary["resolved"],
        versions=summary["versions"],
        data=content.data,
        notice=NOTICE,
    )


def _class_rows(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The classes of the row, each with what it is most often taken for."""
    rows = []
    for at, each in enumerate(row["classes"]):
        others = [(count, -column) for column, count in enumerate(row["confusion"][at])
                  if column != at and count]  # fmt: skip
        count, column = max(others, default=(0, 0))
        taken_for = f"{row['classes'][-column]['name']} ({count})" if count else ""
        rows.append({**each, "taken_for": taken_for})
    return rows


def _mean(content: Content, name: str) -> float | None:
    values = [each[name] for each in content.epochs if name in each]
    return sum(values) / len(values) if values else None
