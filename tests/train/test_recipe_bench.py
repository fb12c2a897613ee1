"""``bench recipes`` trains to the end, goes on where it was, and scores the last weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import bench.recipe_runs
from bench.__main__ import cli
from bench.recipe_runs import BOTH, FINAL, Curve, final_miou, points, run_to_the_end
from shards.errors import JobError, UserError
from shards.reader import ShardSet
from train.checkpoints.checkpoint import LAST, load_content
from train.config.config import TrainConfig
from train.config.safety import Safety
from train.config.settings import Layer, settle
from train.config.source import ShardSource


@pytest.fixture
def tiny_points(monkeypatch: pytest.MonkeyPatch, tiny_arch: str) -> None:
    """Recipes shrunk to milliseconds."""

    def shrunk(layers: list[Layer]) -> Any:
        small = {"batch_size": 5, "precision": "fp32", "device": "cpu"}
        return settle([Layer("test", small), *layers])

    monkeypatch.setattr(bench.recipe_runs, "settle", shrunk)


def test_the_command_goes_on_where_it_was_and_writes_record_table_and_pictures(
    tmp_path: Path, tiny_shards: Path, tiny_arch: str, tiny_points: None
) -> None:
    out = tmp_path / "out"
    args = ["recipes", "--shards", str(tiny_shards), "--recipe", "baseline=1", "--recipe", "fast=1",
            "--arch", tiny_arch, "--image-size", "32", "--out", str(out)]  # fmt: skip
    done = CliRunner().invoke(cli, [*args, "--seeds", "1"])
    assert done.exit_code == 0, done.output
    assert {each.name for each in out.iterdir()} == {
        "runs", "recipes.json", "recipes.md", "miou-tflop.svg", "miou-minutes.svg",
    }  # fmt: skip

    def saved() -> set[tuple[str, int]]:
        return {(str(each), each.stat().st_mtime_ns) for each in (out / "runs").glob(f"*/{LAST}")}

    before = saved()
    finals = sorted((out / "runs").glob(f"*/{FINAL}"))
    assert len(finals) == 2
    again = CliRunner().invoke(cli, [*args, "--seeds", "2"])
    assert again.exit_code == 0, again.output
    assert len(list((out / "runs").glob(f"*/{FINAL}"))) == 4
    assert before < saved()  # no run was made again
    record = json.loads((out / "recipes.json").read_text())
    assert [len(each["repeats"]) for each in record["sections"][0]["results"]] == [2, 2]


@pytest.mark.parametrize(
    ("out", "line"),
    [
        ("file", "{here}/file is a file, expected a folder for the runs"),
        ("file/below", "{here}/file is a file, expected a folder for the runs"),
        ("circle", "cannot create output folder {here}/circle: File exists; choose another"),
        (
            "circle/below",
            "cannot create output folder {here}/circle/below: Too many levels of symbolic links; "
            "choose another",
        ),
    ],
)
def test_an_output_folder_that_cannot_be_is_one_line(
    out: str, line: str, tmp_path: Path, tiny_shards: Path, tiny_arch: str, command_line: Any
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    ended = command_line(
        cli, "recipes", "--shards", tiny_shards, "--arch", tiny_arch, "--out", tmp_path / out
    )
    assert ended.code == 2
    assert ended.err == f"error: {line.format(here=tmp_path)}\n"


def test_the_scores_are_those_of_the_last_weights_and_not_of_the_best(
    tmp_path: Path, tiny_shards: Path, train_tiny: Any
) -> None:
    run = tmp_path / "run"
    train_tiny(run, epochs=2)
    spoiled = load_content(run / LAST)
    assert final_miou(run / LAST, ShardSource(tiny_shards)).keys() == {"val", "test", BOTH}
    for each in spoiled["model"].values():
        if each.is_floating_point():
            each.zero_()
    torch.save({"hyphae_checkpoint": 1, **spoiled}, run / LAST)
    # Of equal logits the first class is the answer: a third of the images, and no other class.
    found = final_miou(run / LAST, ShardSource(tiny_shards))
    assert found == pytest.approx(dict.fromkeys(("val", "test", BOTH), 1 / 9))


def test_a_run_that_fails_is_named(tmp_path: Path, tiny_shards: Path) -> None:
    fingerprint = ShardSet(tiny_shards).manifest.fingerprint
    point = points([Curve("baseline", (1,))], 1, "tinynet", 32)[0]
    broken: TrainConfig = replace(point.config, arch="restnet")
    with pytest.raises(
        JobError, match=r"^recipe baseline, epochs 1, seed 1: unknown arch 'restnet'"
    ):
        run_to_the_end(
            replace(point, config=broken), tmp_path, fingerprint, ShardSource(tiny_shards), Safety()
        )


def test_a_damaged_record_of_a_run_is_one_line(tmp_path: Path, tiny_shards: Path) -> None:
    fingerprint = ShardSet(tiny_shards).manifest.fingerprint
    point = points([Curve("baseline", (1,))], 1, "tinynet", 32)[0]
    place = tmp_path / point.name(fingerprint)
    place.mkdir()
    (place / FINAL).write_text("{}")
    with pytest.raises(
        UserError, match=r"final.json is damaged \(record has no recipe\); remove it"
    ):
        run_to_the_end(point, tmp_path, fingerprint, ShardSource(tiny_shards), Safety())
