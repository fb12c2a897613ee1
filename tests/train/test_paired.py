"""Better, worse or undecided: on pairs of runs whose difference is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from shards.errors import UserError
from train.compare import main
from train.scores.intervals import Interval
from train.scores.outputs import Outputs
from train.scores.paired import Difference, differences


def model(right: float, seed: int, images: int = 600, classes: int = 5) -> Outputs:
    """Right on so many of the images; the labels are the same for every seed."""
    labels = torch.arange(images) % classes
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(images, generator=generator) >= right
    said = (labels + wrong * torch.randint(1, classes, (images,), generator=generator)) % classes
    return Outputs(3 * torch.eye(classes)[said], labels, torch.arange(images))


def test_a_clearly_better_run_is_better_in_every_metric_and_the_other_worse() -> None:
    low, high = model(0.6, 1), model(0.8, 2)
    better = {each.metric: each for each in differences(low, high)}
    worse = {each.metric: each for each in differences(high, low)}
    for name in ("miou", "mf1", "oa", "nll"):
        assert better[name].verdict == "better"
        assert worse[name].verdict == "worse"
        assert worse[name].value == pytest.approx(-better[name].value)
    assert better["nll"].value < 0 < better["oa"].value
    assert better["top5"].verdict == "undecided"  # of five classes, it is always 1


def test_equal_runs_are_undecided_in_everything() -> None:
    for each in differences(model(0.7, 1), model(0.7, 1)):
        assert (each.verdict, each.value) == ("undecided", 0)
        assert each.interval == Interval(0.0, 0.0)


def test_equally_good_runs_are_called_different_about_as_rarely_as_promised() -> None:
    called = 0
    for seed in range(10):
        oa = differences(model(0.7, 2 * seed), model(0.7, 2 * seed + 1))[2]
        called += oa.verdict != "undecided"
    assert called <= 2  # 0.5 are expected; more than 2 has probability 1 %


def test_pairing_finds_a_difference_that_is_small_beside_the_spread_of_images() -> None:
    before = model(0.5, 3)
    logits = before.logits.clone()
    mistakes = (before.predictions != before.labels).nonzero()[:12, 0]
    logits[mistakes] = 3 * torch.eye(5)[before.labels[mistakes]]  # 2 % more are right
    oa = differences(before, Outputs(logits, before.labels, before.ids))[2]
    assert oa.value == pytest.approx(0.02)
    assert oa.verdict == "better"


def test_the_order_of_the_images_does_not_matter() -> None:
    first, second = model(0.6, 1), model(0.7, 2)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    mixed = Outputs(second.logits[order], second.labels[order], second.ids[order])
    assert differences(first, mixed) == differences(first, second)


def test_other_images_are_refused() -> None:
    with pytest.raises(UserError, match="the runs were not evaluated on the same images"):
        differences(model(0.6, 1), model(0.6, 1, images=500))


def test_a_difference_in_print() -> None:
    shown = Difference("miou", 0.03125, Interval(0.01, 0.05))
    assert str(shown) == "miou: +0.0312 (95 %: +0.0100 to +0.0500): better"


def test_the_command_compares_a_run_with_itself(
    finished_run: Path, command_line: Any, tmp_path: Path
) -> None:
    page = tmp_path / "compare.html"
    table = tmp_path / "compare.json"
    ended = command_line(main, finished_run, finished_run, "--out", page, "--json", table)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    heading = next(at for at, line in enumerate(lines) if line.startswith("run "))
    assert lines[heading + 1] == lines[heading + 2]
    assert lines[heading + 3] == f"{finished_run} against {finished_run}:"
    assert all(line.endswith("undecided") for line in lines[heading + 4 : -1])
    assert "undecided" in page.read_text()
    stored = json.loads(table.read_text())
    assert [each["images"] for each in stored["runs"]] == [6, 6]
    assert stored["runs"][0]["classes"] == stored["runs"][1]["classes"]
    assert {each["metric"] for each in stored["differences"]} == {
        "miou", "mf1", "oa", "top5", "nll",
    }  # fmt: skip
    assert all(
        (each["second_minus_first"], each["interval"], each["verdict"]) == (0, [0, 0], "undecided")
        for each in stored["differences"]
    )


def test_a_species_table_is_that_of_both_runs(
    finished_run: Path, command_line: Any, tmp_path: Path
) -> None:
    ended = command_line(main, finished_run, finished_run, "--species", tmp_path / "none.csv")
    assert ended.code == 2
    assert "none.csv" in ended.err


def test_one_run_is_not_enough(command_line: Any, tmp_path: Path) -> None:
    ended = command_line(main, tmp_path)
    assert (ended.code, ended.err) == (2, "error: compare needs two runs or more\n")
