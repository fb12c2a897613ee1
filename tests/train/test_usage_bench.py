"""``bench predict`` and ``bench resplits`` on a real run; the networks of these tests live here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.__main__ import cli
from bench.resplits import resplit
from train.scores.calibration import negative_log_likelihood
from train.scores.outputs import Outputs


def test_prediction_is_measured_beside_evaluation(
    finished_run: Path, command_line: Any, tiny_dataset: Path, tmp_path: Path
) -> None:
    record = tmp_path / "record.json"
    ended = command_line(
        cli, "predict", finished_run, tiny_dataset / "merged_dataset", "--repeats", "2",
        "--json", record,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    (section,) = json.loads(record.read_text())["sections"]
    assert section["settings"]["photographs"] == 12  # two turns of the six images of test
    by_name = {each["name"]: each for each in section["results"]}
    assert set(by_name) == {"evaluation", "prediction"}
    assert all(len(each["repeats"]) == 2 and min(each["repeats"]) > 0 for each in by_name.values())


def test_too_few_photographs_for_the_turns_are_refused(
    finished_run: Path, command_line: Any, tiny_dataset: Path
) -> None:
    ended = command_line(
        cli, "predict", finished_run, tiny_dataset / "merged_dataset", "--repeats", "7"
    )
    assert ended.code == 2
    assert ended.err.endswith(
        "error: 7 turns of 6 images need 42 photographs, got 36; fewer --repeats\n"
    )


def test_re_splits_are_reported_for_both_temperatures(
    finished_run: Path, command_line: Any
) -> None:
    ended = command_line(cli, "resplits", finished_run, "--count", "5")
    assert ended.code == 0, ended.err
    drawn, likeliest = ended.out.splitlines()[-2:]
    assert drawn.startswith("as runs fit it: 12 images, 5 re-splits into halves: the temperature (")
    assert likeliest.startswith("the likeliest one: 12 images, 5 re-splits")
    assert "raises it in " in drawn


def test_a_re_split_scores_images_that_the_temperature_was_not_fitted_on() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(60, 4, generator=generator)
    labels = torch.randint(4, (60,), generator=generator)  # sure, and wrong
    outputs = Outputs(logits, labels, torch.arange(60))
    found = resplit(outputs, 8, 0)
    assert (found.images, len(found.changes)) == (60, 8)
    assert found.nll == pytest.approx(negative_log_likelihood(outputs))
    assert (found.changes < -1).all()
    assert (found.temperatures > 2).all()
    assert len(set(found.changes)) == 8
