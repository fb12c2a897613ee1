"""Photographs -> shards -> trained -> evaluated, with the commands that a user types."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

CLASSES, TRAIN_ROWS = 3, 36


@pytest.mark.slow
def test_photographs_become_shards_a_model_and_the_same_test_row_twice(
    tiny_dataset: Path,
    tmp_path: Path,
    run_command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    shards, run = tmp_path / "my shards", tmp_path / "my run"

    def done(*args: object) -> list[str]:
        ended = run_command(*args, timeout=300)
        assert ended.returncode == 0, ended.stderr
        assert "Traceback" not in ended.stderr
        assert "Warning" not in ended.stderr
        return ended.stdout.splitlines()

    packed = done("preprocess", tiny_dataset, "--out", shards, "--short-side", "96")
    assert any(re.match(rf"train +{TRAIN_ROWS} rows from 24 files", line) for line in packed)
    info = done("shards", "info", shards)
    assert info[0].startswith(f"{shards}: {CLASSES} classes")

    trained = done(
        "train", "--arch", "resnet18", "--shards", shards, "--image-size", "32",
        "--batch-size", "8", "--epochs", "2", "--out", run,
    )  # fmt: skip
    losses = [
        float(line.split("train loss ")[1].split()[0])
        for line in trained
        if line.startswith("epoch ")
    ]
    assert len(losses) == 2
    assert losses[1] < losses[0]

    summary = json.loads((run / "summary.json").read_text())
    assert set(summary["test"]) == {"oa", "mf1", "miou"}
    assert all(0 <= value <= 1 for value in summary["test"].values())
    assert {"best_epoch", "seconds", "samples_seen", "images_per_s"} <= set(summary)
    assert summary["samples_seen"] == 2 * TRAIN_ROWS
    assert {"config.json", "metrics.jsonl", "best.pt", "last.pt"} <= {
        each.name for each in run.iterdir()
    }
    assert list(run.glob("events.out.tfevents*"))

    row_file = tmp_path / "row.json"
    again = done("train.evaluate", run / "best.pt", "--split", "test", "--json", row_file)
    assert again[0] == next(line for line in trained if line.startswith("test: "))
    row = json.loads(row_file.read_text())
    assert {name: row[name] for name in summary["test"]} == summary["test"]
