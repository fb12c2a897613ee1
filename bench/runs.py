"""Finished runs: their real times, and their scores beside the published ones where that is fair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.result import NOT_MEASURED, number, text_table
from shards.errors import ShardError
from shards.format import Manifest
from shards.machine import human_time
from train.scores.published import incomparable, published_table

SUMMARY = "summary.json"
HEADER = ("run", "arch", "recipe", "px", "epochs", "time", "img/s", "test mIoU", "published")


def finished_runs(folder: Path) -> list[dict[str, Any]]:
    """What the ``summary.json`` of each run in ``folder`` says, and whether it may be compared."""
    return [_run(path) for path in sorted(folder.glob(f"*/{SUMMARY}"))]


def render_runs(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Lines for finished runs; none where there are none."""
    if not runs:
        return []
    rows = [[*HEADER], *map(run_cells, runs)]
    lines = ["finished runs: whole time with evaluation, one run each"]
    return lines + [f"  {line}" for line in text_table(rows, left=(0, 1, 2, 8))]


def _run(path: Path) -> dict[str, Any]:
    name = path.parent.name
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        run = {
            "run": name,
            **{key: summary[key] for key in ("arch", "recipe", "image_size", "epochs")},
            **{key: float(summary[key]) for key in ("seconds", "images_per_s")},
            "miou": summary["test"]["miou"] if "test" in summary else None,
        }
        why_not = _incomparable(summary)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {"run": name, "unreadable": f"{type(error).__name__}: {error}"}
    published = published_table().get(run["arch"])
    if why_not is None and published is not None:
        run["published_miou"] = published.miou
    elif why_not is not None:
        run["incomparable"] = why_not
    return run


def _incomparable(summary: dict[str, Any]) -> str | None:
    """Why the test scores must not stand beside the published ones; None if they may."""
    if "test" not in summary:
        return "no test split"
    try:
        manifest = Manifest.read(Path(summary["shards"]["directory"]))
    except ShardError:
        return "its shard set is not there any more"
    if manifest.fingerprint != summary["shards"]["fingerprint"]:
        return "its shard set has changed"
    if summary["test_images"] != manifest.splits["test"].samples:
        return "evaluated on a part of the classes"
    return incomparable(manifest, summary["image_size"])


def run_cells(run: dict[str, Any]) -> list[str]:
    """A finished run as cells under :data:`HEADER`."""
    if "unreadable" in run:
        return [run["run"], *[NOT_MEASURED] * 7, f"{SUMMARY} is unreadable ({run['unreadable']})"]
    if "incomparable" in run:
        beside = f"different data, not comparable ({run['incomparable']})"
    elif "published_miou" in run:
        beside = f"{100 * run['published_miou']:.1f}"
    else:
        beside = "not published for this arch"
    return [
        run["run"],
        run["arch"],
        run["recipe"],
        str(run["image_size"]),
        str(run["epochs"]),
        human_time(run["seconds"]),
        number(run["images_per_s"]),
        NOT_MEASURED if run["miou"] is None else f"{100 * run['miou']:.1f}",
        beside,
    ]
