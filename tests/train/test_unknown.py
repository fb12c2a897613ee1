"""The studies of unknown species and of prediction sets, and what predict makes of what they store."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

import train.engine.probe
import train.novelty.bank
import train.studies.unknown_runs
from shards.errors import UserError
from shards.reader import ShardSet
from train.checkpoints.checkpoint import BEST, load_checkpoint
from train.checkpoints.folder import held
from train.enroll import main as enroll_main
from train.predict import main as predict_main
from train.scores.unknown import SCORES
from train.studies.storing import store
from train.study import main

KNOWN, OTHER = "Cantharellus cibarius", "Amanita muscaria"


@pytest.fixture
def run(held_out_run: Path, tmp_path: Path) -> Path:
    """A run of one class, two held out; to change."""
    return Path(shutil.copytree(held_out_run, tmp_path / "run"))


@pytest.fixture
def rows_of(command_line: Any) -> Callable[..., list[dict[str, str]]]:
    """``rows_of(checkpoint, photos...)``: what predict says, as CSV."""

    def call(*args: object) -> list[dict[str, str]]:
        ended = command_line(predict_main, *args, "--format", "csv")
        assert ended.code == 0, ended.err
        return list(csv.DictReader(io.StringIO(ended.out)))

    return call


def test_the_study_says_how_many_runs_its_figures_stand_on_and_stores_a_threshold(
    run: Path, command_line: Any
) -> None:
    ended = command_line(main, "unknown", run)
    assert ended.code == 0, ended.err
    assert "unknown: 2 classes held out by the run; test, 2 photographs of known and 4" in ended.out
    rows = list(csv.DictReader((run / "unknown" / "unknown.csv").open()))
    assert [(row["score"], row["runs"]) for row in rows] == [(score, "1") for score in SCORES]
    for row in rows:
        assert 0 <= float(row["auroc_low"]) <= float(row["auroc"]) <= float(row["auroc_high"]) <= 1
    assert cv2.imread(str(run / "unknown" / "unknown.png")) is not None
    detector = load_checkpoint(run / BEST).unknown
    assert detector is not None
    assert detector.recall == 0.95
    assert f"stored in {run / BEST}: {detector.score}, unknown below " in ended.out


def test_predict_says_that_a_photograph_shows_none_of_the_known_species(
    run: Path,
    command_line: Any,
    rows_of: Callable[..., list[dict[str, str]]],
    tiny_dataset: Path,
    tmp_path: Path,
) -> None:
    photos = tiny_dataset / "merged_dataset" / OTHER
    before = rows_of(run, photos)
    assert {row["known_score"] for row in before} == {""}
    command_line(main, "unknown", run, "--score", "neighbours")
    content = torch.load(run / BEST, weights_only=True)
    scores = [float(row["known_score"]) for row in rows_of(run, photos)]
    below, above = sorted(scores)[len(scores) // 2 - 1 :][:2]
    content["unknown"]["threshold"] = middle = (below + above) / 2
    torch.save(content, run / BEST)
    for was, row, score in zip(before, rows_of(run, photos), scores, strict=True):
        unknown = score < middle
        assert (row["rank"] == "unknown") == unknown
        assert row["species_1"] == was["species_1"]
        if unknown:
            assert (row["answer"], row["edibility"], row["dangerous"]) == ("", "", "")
        else:
            assert row["answer"] == was["answer"]
    page = tmp_path / "page.html"
    said = command_line(predict_main, run, photos, "--html", page).out
    expected = sum(score < middle for score in scores)
    assert said.count(": not one of the known species (score ") == expected > 0
    assert page.read_text().count("not one of the known species") == expected


def test_predict_scores_a_photograph_as_the_study_did(
    run: Path,
    command_line: Any,
    rows_of: Callable[..., list[dict[str, str]]],
    tiny_dataset: Path,
    tiny_shards: Path,
) -> None:
    with ShardSet(tiny_shards).split("val") as split:
        paths = [
            tiny_dataset / "merged_dataset" / split.metadata(at)["path"]
            for at in range(len(split))
            if split.manifest.class_names[int(split.labels[at])] == KNOWN
        ]
    for score in SCORES:
        assert command_line(main, "unknown", run, "--score", score, "--recall", 0.9).code == 0
        detector = load_checkpoint(run / BEST).unknown
        assert detector is not None
        assert (detector.score, detector.known is None) == (
            score,
            score in ("softmax", "logit", "energy"),
        )
        # All of so few photographs have to pass, so that the threshold is the lowest of them.
        found = [float(row["known_score"]) for row in rows_of(run, *paths)]
        assert min(found) == pytest.approx(detector.threshold, rel=1e-3, abs=1e-3)


def test_a_stopped_study_goes_on_and_ends_as_one_that_was_not(
    run: Path, command_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.engine.probe, "PENALTIES", (1.0,))
    content = torch.load(run / BEST, weights_only=True)
    content["config"] |= {"head": "only", "finetune_from": "start"}
    torch.save(content, run / BEST)
    ask = (main, "unknown", run, "--draws", 2, "--leave-out", 1, "--no-store")
    with monkeypatch.context() as patch:
        trial, done = train.studies.unknown_runs.trial, []

        def stopped(*args: Any) -> Any:
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(1)
            return trial(*args)

        patch.setattr(train.studies.unknown_runs, "trial", stopped)
        assert command_line(*ask).code == 130
    ended = command_line(*ask)
    assert f"3 cells, 2 done; {run / 'unknown'}" in ended.out
    table = (run / "unknown" / "unknown.csv").read_text()
    assert [row["runs"] for row in csv.DictReader(io.StringIO(table))] == ["1"] * 5 + ["2"] * 5
    assert command_line(*ask, "--out", run / "whole").code == 0
    assert (run / "whole" / "unknown.csv").read_text() == table
    assert load_checkpoint(run / BEST).unknown is None


def test_features_are_made_once(
    run: Path, command_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = command_line(main, "unknown", run, "--no-store")

    def never(*args: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(train.novelty.bank, "extract", never)
    again = command_line(main, "unknown", run, "--no-store", "--out", run / "again")
    assert (first.code, again.code) == (0, 0)


def test_what_cannot_be_asked_is_refused(run: Path, finished_run: Path, command_line: Any) -> None:
    for ask, message in (
        ((finished_run,), "the run held no class out, so nothing is unknown to it; train with"),
        (
            (run, "--draws", 2),
            "--draws is for a run of --recipe probe: this network was trained on",
        ),
    ):
        ended = command_line(main, "unknown", *ask)
        assert ended.code == 2
        assert ended.err.startswith(f"error: {message}")


def test_a_checkpoint_is_left_alone_while_its_run_is_at_work(run: Path) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with held(run):
            os.write(write, b"held")
            signal.pause()
    assert os.read(read, 4) == b"held"
    try:
        with pytest.raises(UserError, match="is in use by another process"):
            store(run / BEST, conformal=torch.zeros(1))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert load_checkpoint(run / BEST).conformal is None


def test_prediction_sets_come_from_what_the_study_stored(
    run: Path,
    command_line: Any,
    rows_of: Callable[..., list[dict[str, str]]],
    tiny_dataset: Path,
) -> None:
    photos = tiny_dataset / "merged_dataset" / KNOWN
    ended = command_line(predict_main, run, photos, "--conformal", 0.9)
    assert ended.code == 2
    assert ended.err.endswith(
        f"{run / BEST} holds no scores to make prediction sets from; store them with: python -m "
        f'train.study conformal "{run / BEST}"\n'
    )
    ended = command_line(main, "conformal", run, "--coverage", "0.5,0.9", "--resplits", 5)
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader((run / "conformal" / "conformal.csv").open()))
    assert [(row["coverage asked for"], row["re-splits"]) for row in rows] == [
        ("0.5", "5"), ("0.9", "5"),
    ]  # fmt: skip
    assert cv2.imread(str(run / "conformal" / "conformal.png")) is not None
    stored = load_checkpoint(run / BEST).conformal
    assert stored is not None
    assert len(stored) == 2
    # Two photographs cannot promise 90 %: every known class is in the set, and no other.
    assert {row["set"] for row in rows_of(run, photos, "--conformal", 0.9)} == {KNOWN}
    ended = command_line(predict_main, run, photos, "--conformal", 0.9, "--format", "jsonl")
    assert json.loads(ended.out.splitlines()[0])["set"] == [KNOWN]
    assert f"; set: {KNOWN}" in command_line(predict_main, run, photos, "--conformal", 0.9).out


def test_an_enrolled_class_is_known_to_the_detector_and_sets_have_to_be_made_anew(
    run: Path, command_line: Any, tiny_dataset: Path, tmp_path: Path
) -> None:
    command_line(main, "unknown", run, "--score", "mahalanobis")
    command_line(main, "conformal", run, "--resplits", 2)
    photos = sorted((tiny_dataset / "merged_dataset" / OTHER).iterdir())[:4]
    out = tmp_path / "new.pt"
    assert command_line(enroll_main, run, "--species", OTHER, *photos, "--out", out).code == 0
    before, after = load_checkpoint(run / BEST), load_checkpoint(out)
    assert before.unknown is not None
    assert before.unknown.known is not None
    assert after.unknown is not None
    assert after.unknown.known is not None
    assert len(after.unknown.known.means) == len(before.unknown.known.means) + 1
    assert after.unknown.threshold == before.unknown.threshold
    assert before.conformal is not None
    assert after.conformal is None


def test_a_crafted_threshold_is_no_traceback(run: Path, command_line: Any) -> None:
    command_line(main, "unknown", run)
    content = torch.load(run / BEST, weights_only=True)
    for damage in (
        {"score": "magic"},
        {"threshold": "high"},
        {"known": 3},
        {"known": None, "score": "neighbours"},
        {"threshold": None},
    ):
        torch.save(content | {"unknown": content["unknown"] | damage}, run / "bad.pt")
        ended = command_line(predict_main, run / "bad.pt", run)
        assert ended.code == 2
        assert f"error: {run / 'bad.pt'} does not hold what a run saves: " in ended.err
    assert math.isfinite(content["unknown"]["threshold"])
