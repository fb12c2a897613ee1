"""Runs on a part of the data: what is trained on, what is evaluated, what is written down."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shards.errors import Interrupted
from train.checkpoints.checkpoint import BEST, load_checkpoint
from train.config.config import TrainConfig
from train.config.resolve import resolve
from train.evaluate import main as evaluate_main
from train.method.batches import count_eval_images, eval_loader, train_loader
from train.runs.log import CONFIG, SUMMARY

SAMPLES = 24  # distinct training photographs of the tiny shards: 12, 8 and 4 a class
BOLETUS = "Boletus edulis"


def shown(config: TrainConfig, shards: Path, split: str) -> list[tuple[int, int]]:
    """Ids and labels of an epoch of training, or of an evaluation."""
    resolved = replace(resolve(config), loader="synthetic")
    open_loader = (
        train_loader(config, resolved, shards)
        if split == "training"
        else eval_loader(config, resolved, shards, split)
    )
    with closing(open_loader) as loader:
        return [
            pair
            for batch in loader.epoch(0)
            for pair in zip(batch.ids.tolist(), batch.labels.tolist(), strict=True)
        ]


def test_folds_train_on_everything_but_what_they_evaluate(
    tiny_shards: Path, make_config: Any
) -> None:
    aside = []
    for index in range(4):
        config = make_config(fold=(index, 4))
        val = [sample for sample, _ in shown(config, tiny_shards, "val")]
        rest = [sample for sample, _ in shown(config, tiny_shards, "train")]
        trained = {sample for sample, _ in shown(config, tiny_shards, "training")}
        assert trained == set(rest) == set(range(SAMPLES)) - set(val)
        assert len(val) == len(set(val)) == count_eval_images(config, tiny_shards, "val")
        assert shown(config, tiny_shards, "test") == shown(make_config(), tiny_shards, "test")
        aside += val
    assert sorted(aside) == list(range(SAMPLES))


@pytest.mark.parametrize("split", ["training", "train", "val", "test"])
def test_a_class_that_is_held_out_is_neither_trained_on_nor_evaluated(
    tiny_shards: Path, make_config: Any, split: str
) -> None:
    everything = shown(make_config(), tiny_shards, split)
    kept = shown(make_config(holdout=(BOLETUS,)), tiny_shards, split)
    assert sorted(kept) == sorted(pair for pair in everything if pair[1] != 1)
    assert {label for _, label in kept} == {0, 2}  # the labels keep their numbers


def test_shots_and_tails_leave_the_evaluation_whole(tiny_shards: Path, make_config: Any) -> None:
    for fields in ({"shots": 2}, {"imbalance": 2.0}, {"mini": 3}):
        config = make_config(sampling="natural", **fields)
        assert len(shown(config, tiny_shards, "training")) < SAMPLES
        for split in ("train", "val", "test"):
            assert shown(config, tiny_shards, split) == shown(make_config(), tiny_shards, split)


def test_a_split_that_is_not_there_has_no_images(tiny_shards: Path, make_config: Any) -> None:
    assert count_eval_images(make_config(), tiny_shards, "holiday") == 0


def test_a_run_writes_down_its_part_and_evaluates_it_again(
    train_command: Any, command_line: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ended = train_command("--holdout", BOLETUS, "--sampling", "balanced", "--epoch-size", 14,
                          "--shots", 3, "--subset-seed", 5, "--out", out)  # fmt: skip
    assert ended.code == 0, ended.err
    assert "1 epoch of 14 images" in ended.out
    assert "sampling balanced (1 class held out, 3 shots a class), order " in ended.out
    config = json.loads((out / CONFIG).read_text())["config"]
    chosen = {"holdout": [BOLETUS], "sampling": "balanced", "epoch_size": 14, "shots": 3,
              "subset_seed": 5, "classes": [], "fold": None}  # fmt: skip
    assert {name: config[name] for name in chosen} == chosen
    assert load_checkpoint(out / BEST).config.holdout == (BOLETUS,)
    summary = json.loads((out / SUMMARY).read_text())
    assert (summary["test_images"], summary["num_classes"]) == (4, 3)
    assert (summary["sampling"], summary["subset"]) == (
        "balanced", "1 class held out, 3 shots a class",
    )  # fmt: skip
    again = command_line(evaluate_main, out, "--split", "test")
    assert again.code == 0, again.err
    row = next(line for line in ended.out.splitlines() if line.startswith("test: "))
    assert again.out.splitlines()[0] == row
    assert "4 images  (classes without an image here: 1)" in row


def test_a_fold_run_evaluates_its_fold_as_val(
    train_command: Any, command_line: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert train_command("--fold", "1/3", "--out", out).code == 0
    assert "8 images" in command_line(evaluate_main, out, "--split", "val").out
    assert "16 images" in command_line(evaluate_main, out, "--split", "train").out


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"sampling": "csv", "epoch_size": 17}, id="windows"),
        pytest.param({"sampling": "balanced", "epoch_size": 17}, id="balanced"),
        pytest.param({"sampling": "sqrt", "fold": (2, 3)}, id="sqrt and fold"),
    ],
)
def test_resuming_is_exact_with_any_sampling(
    tmp_path: Path, train_tiny: Any, stop_after: Any, resume: Any, outcome_of: Any,
    fields: dict[str, Any],
) -> None:  # fmt: skip
    train_tiny(tmp_path / "unbroken", epochs=3, **fields)
    stop_after(7)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "broken", epochs=3, **fields)
    resume(tmp_path / "broken")
    assert outcome_of(tmp_path / "broken") == outcome_of(tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shots", "2", "--mini", "3"], "mini and shots exclude each other; choose one of them"),
        (["--shots", "2", "--imbalance", "3"], "shots and imbalance exclude each other; choose "
                                               "one of them"),
        (["--classes", BOLETUS, "--holdout", "Amanita muscaria"],
         "classes and holdout exclude each other; choose one of them"),
        (["--holdout", "Boletus edulus"],
         f"unknown class 'Boletus edulus'; did you mean '{BOLETUS}'?"),
        (["--fold", "3/3"], "fold 3/3 is not I/N with N of 2 or more and I from 0 to N-1"),
        (["--fold", "one"], "Invalid value for '--fold': 'one' is not I/N, as in 0/5 (see "
                            "python -m train --help)"),
        (["--holdout", "@none.txt"], "no class names: cannot read none.txt: No such file or directory"),
        (["--classes", ",,"], "no class names in ',,', expected A,B or @FILE"),
        (["--holdout", ","], "no class names in ',', expected A,B or @FILE"),
        (["--holdout", ""], "Invalid value for '--holdout': the list of names is empty (see "),
        (["--shots", "5"], "5 shots: 1 of 3 classes are too small, least 'Cantharellus cibarius' "
                           "with 4 samples; choose at most 4, or leave "),
        (["--imbalance", "40"], "imbalance 40 is too large: "),
        (["--sampling", "sqrt", "--epoch-size", "2"],
         "epoch size 2 is too small for sqrt sampling: 1 of 3 classes would have no image; choose "
         "5 or more"),
        (["--epoch-size", "4"], "batch size 5 is larger than the train split (4 images an epoch); "
                                "choose at most 4"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line_before_anything_is_written(
    train_command: Any, tmp_path: Path, options: list[str], message: str
) -> None:
    ended = train_command(*options, "--out", tmp_path / "run")
    assert ended.code == 2
    assert ended.err.startswith(f"error: {message}")
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_classes_can_be_listed_in_a_file(train_command: Any, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(f"{BOLETUS}\nAmanita muscaria\n")
    ended = train_command("--classes", f"@{tmp_path / 'names.txt'}", "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    config = json.loads((tmp_path / "run" / CONFIG).read_text())["config"]
    assert config["classes"] == [BOLETUS, "Amanita muscaria"]
