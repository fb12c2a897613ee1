"""The study of long tails: what it runs, what it says, and that a stop costs nothing."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import train.engine.run
import train.runs.interrupt
from shards.errors import UserError
from train.config.settings import Layer
from train.studies.tail_runs import TailResult, photographs, tail_points
from train.studies.tail_table import compared, summarise
from train.study import main

SMALL = {
    "recipe": "baseline", "arch": "tinynet", "image_size": 32, "batch_size": 8, "epochs": 1,
    "precision": "fp32", "device": "cpu", "imbalance": 2.0,
}  # fmt: skip


def options(**fields: Any) -> list[str]:
    return [
        part for name, each in fields.items() for part in (f"--{name.replace('_', '-')}", str(each))
    ]


def test_each_way_sees_the_same_tails_and_each_tail_is_another(tiny_shards: Path) -> None:
    points = tail_points(("none", "sqrt"), 3, [Layer("a test", SMALL)])
    assert [each.values for each in points] == [
        {"rebalance": word, "tail": tail} for tail in range(3) for word in ("none", "sqrt")
    ]
    subsets = [each.config.train_subset for each in points]
    assert subsets[0] == subsets[1] != subsets[2]
    assert [each.config.seed for each in points] == [0, 0, 1, 1, 2, 2]
    assert {each.config.sampling for each in points[::2]} == {"natural"}
    counts = photographs(points[0].config, tiny_shards)
    assert 1.5 <= counts.max() / counts.min() <= 3  # 2, rounded to whole photographs


def drawn(word: str, tail: int, right: float, photographs: list[int], seed: int = 0) -> TailResult:
    """Predictions of three classes, of which a share is right."""
    rng = np.random.default_rng([seed, tail])
    labels = np.arange(300) % 3
    wrong = rng.random(300) >= right
    predictions = np.where(wrong, (labels + 1) % 3, labels)
    return TailResult(
        rebalance=word, tail=tail, labels=labels, predictions=predictions,
        photographs=np.array(photographs),
    )  # fmt: skip


def test_a_way_that_is_better_on_every_tail_is_called_better_and_noise_is_not() -> None:
    tested = [
        drawn(word, tail, right, [9, 3, 1], seed)
        for tail in range(4)
        for seed, (word, right) in enumerate({"none": 0.6, "csv": 0.6, "sqrt": 0.9}.items())
    ]
    ways = summarise(tested)
    assert [each.rebalance for each in ways] == ["none", "csv", "sqrt"]
    assert [each.runs for each in ways] == [4, 4, 4]
    verdicts = {word: each.verdict for word, each in compared(ways)}
    assert verdicts == {"csv": "undecided", "sqrt": "better"}
    for way in ways:
        assert way.intervals["mf1"].low < way.values["mf1"] < way.intervals["mf1"].high


def test_the_interval_holds_what_tails_differ_by_beyond_photographs() -> None:
    alike = [drawn("none", tail, 0.7, [9, 3, 1]) for tail in range(6)]
    apart = [drawn("none", tail, 0.4 + 0.1 * tail, [9, 3, 1]) for tail in range(6)]
    widths = [
        way.intervals["oa"].high - way.intervals["oa"].low
        for way in (*summarise(alike), *summarise(apart))
    ]
    assert widths[1] > 2 * widths[0]


def test_recall_is_told_by_how_many_photographs_a_class_had() -> None:
    run = drawn("none", 0, 1.0, [1, 9, 3])
    predictions = np.where(run.labels == 0, 1, run.labels)  # the rarest class is never answered
    (way,) = summarise([replace(run, predictions=predictions)])
    assert [way.third(name) for name in ("frequent", "middle", "rare")] == [1, 1, 0]
    assert compared([way]) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--rebalance", "none,more"],
            "--rebalance has 'more'; known are none, csv, sqrt, logit-adj",
        ),
        (["--rebalance", "sqrt,none,sqrt"], "--rebalance has sqrt twice; drop one of them"),
        (
            ["--seed", "1"],
            "--seed: each tail has its own; drop it, --tails says how many there are",
        ),
        (["--sampling", "csv"], "--sampling: --rebalance decides it; drop one of the two"),
        (["--tails", "0"], "'--tails': 0 is not in the range 1<=x<=1000"),
        (["--shots", "3"], "shots and imbalance exclude each other"),
    ],
)
def test_a_request_that_makes_no_sense_is_one_line(
    command_line: Any, tiny_shards: Path, given: list[str], message: str
) -> None:
    ended = command_line(main, "imbalance", "--shards", tiny_shards, *given)
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_a_stopped_study_goes_on_and_ends_as_if_it_had_never_stopped(
    command_line: Any, tiny_shards: Path, tmp_path: Path, stop_after: Any, resume: Any
) -> None:
    def study(out: str) -> Any:
        return command_line(
            main, "imbalance", "--shards", tiny_shards, "--out", tmp_path / out, "--tails", 1,
            "--rebalance", "none,logit-adjust", *options(**SMALL),
        )  # fmt: skip

    whole = study("whole")
    assert whole.code == 0, whole.err
    assert "2 cells, 0 done; " in whole.out
    assert "logit-adjust less none, mf1: " in whole.out
    stop_after(2)
    stopped = study("broken")
    assert stopped.code == 130
    assert (
        "study stopped, 0 of 2 cells done; go on with: python -m train.study imbalance"
        in stopped.err
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.engine.run, "StopRequest", train.runs.interrupt.StopRequest)
        again = study("broken")
        larger = command_line(
            main, "imbalance", "--shards", tiny_shards, "--out", tmp_path / "whole", "--tails", 1,
            "--rebalance", "none,logit-adjust,sqrt", *options(**SMALL),
        )  # fmt: skip
    assert again.code == 0, again.err
    tables = [(tmp_path / each / "imbalance.csv").read_text() for each in ("whole", "broken")]
    rows = [list(csv.DictReader(each.splitlines())) for each in tables]
    assert rows[0][:2] == rows[1]
    assert [(each["rebalance"], each["runs"]) for each in rows[0]] == [
        ("none", "1"), ("logit-adjust", "1"), ("sqrt", "1"),
    ]  # fmt: skip
    assert cv2.imread(str(tmp_path / "whole" / "imbalance.png")) is not None
    assert larger.code == 0, larger.err
    assert "3 cells, 2 done; " in larger.out


def test_a_run_that_fails_ends_the_study_with_its_reason(
    command_line: Any, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise UserError("no such thing")

    monkeypatch.setattr("train.sweeps.sweep_run.start_run", failing)
    ended = command_line(
        main, "imbalance", "--shards", tiny_shards, "--out", tmp_path / "study", "--tails", 1,
        *options(**SMALL),
    )  # fmt: skip
    assert ended.code == 1
    assert (
        "the run of rebalance none, tail 0 failed: no such thing; the same command tries"
        in ended.err
    )


def test_the_help_shows_the_defaults_of_the_studys_own_recipe(command_line: Any) -> None:
    page = " ".join(command_line(main, "imbalance", "--help").out.split())
    assert "What all other fields start from. [default: probe]" in page
    assert "[default: tf_efficientnet_lite0]" in page
