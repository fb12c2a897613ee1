"""``bench recipes``: runs to the end, their last weights, what they computed, and who is ahead."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import bench.recipe_runs
from bench.__main__ import cli
from bench.curve_chart import curve_chart
from bench.operations import flops_per_image
from bench.recipe_curves import (
    HEADER,
    comparisons,
    curve_rows,
    curves_section,
    difference,
    half_width,
    markdown,
)
from bench.recipe_runs import (
    BOTH,
    FINAL,
    Curve,
    FinalRun,
    final_miou,
    points,
    read_curve,
    run_to_the_end,
    training_flops,
)
from shards.errors import JobError, UserError
from shards.reader import ShardSet
from train.checkpoints.checkpoint import LAST, load_content
from train.config.config import TrainConfig
from train.config.recipes import create_recipe
from train.config.safety import Safety
from train.config.settings import Layer, settle
from train.config.source import ShardSource


def final_run(**fields: Any) -> FinalRun:
    defaults: dict[str, Any] = {
        "recipe": "baseline", "arch": "resnet18", "image_size": 128, "epochs": 20, "seed": 1,
        "miou": {"val": 0.4, "test": 0.6, BOTH: 0.5}, "tflop": 60.0, "seconds": 600.0,
        "samples_seen": 19040, "cores_of_others": None,
    }  # fmt: skip
    return FinalRun(**defaults | fields)


def runs_of(recipe: str, tflop: float, *scores: float) -> list[FinalRun]:
    return [
        final_run(recipe=recipe, tflop=tflop, seed=at, seconds=10 * tflop,
                  miou={"val": each, "test": each, BOTH: each})
        for at, each in enumerate(scores, 1)
    ]  # fmt: skip


def test_a_curve_is_a_recipe_and_its_lengths() -> None:
    assert read_curve("baseline=5,10") == Curve("baseline", (5, 10))
    assert read_curve("fast") == Curve("fast", (create_recipe("fast").epochs,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fats=5", "unknown recipe 'fats'; did you mean 'fast'?"),
        ("fast=5,5", "'fast=5,5' is not a recipe with different numbers of epochs, as in fast=5,10"),
        ("fast=0", "'fast=0' is not a recipe with different numbers of epochs"),
        ("fast=long", "'fast=long' is not a recipe with different numbers of epochs"),
        ("probe", "recipe probe makes no training step, so it has no curve; `python -m train --recipe "),
    ],
)  # fmt: skip
def test_a_curve_that_cannot_be_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["recipes", "--recipe", text, "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_each_length_and_seed_is_a_run_that_evaluates_once_at_its_end() -> None:
    found = points([Curve("baseline", (2, 4)), Curve("finetune", (3,))], 2, "resnet18", 128)
    assert [(p.config.recipe, p.config.epochs, p.config.seed) for p in found] == [
        ("baseline", 2, 1), ("baseline", 2, 2), ("baseline", 4, 1), ("baseline", 4, 2),
        ("finetune", 3, 1), ("finetune", 3, 2),
    ]  # fmt: skip
    assert all(each.config.eval_every == each.config.epochs for each in found)
    # What starts from weights keeps the architecture and size that they are for.
    assert [(each.config.arch, each.config.image_size) for each in found[::4]] == [
        ("resnet18", 128),
        ("tf_efficientnet_lite0", 224),
    ]


@given(
    epochs=st.integers(1, 6),
    batch_size=st.integers(1, 40),
    images=st.integers(1, 100),
    start=st.sampled_from([None, 32, 64]),
)
def test_every_training_image_counts_once_at_a_size_of_its_run(
    epochs: int, batch_size: int, images: int, start: int | None
) -> None:
    sizes = {32: 1, 48: 2, 64: 3, 80: 4, 96: 5, 112: 6, 128: 7}
    shown: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            bench.recipe_runs, "flops_per_image", lambda arch, size: shown.append(size) or 10**6
        )
        config = replace(
            create_recipe("baseline"), epochs=epochs, batch_size=batch_size, image_size=128,
            start_size=start,
        )  # fmt: skip
        assert training_flops(config, images) == epochs * images * 10**6
    assert set(shown) <= set(sizes)


def test_growing_images_cost_what_their_sizes_cost() -> None:
    plain = replace(create_recipe("baseline"), arch="resnet18", image_size=64, epochs=2)
    assert training_flops(plain, 10) == 20 * flops_per_image("resnet18", 64)
    growing = replace(plain, start_size=32, batch_size=5)  # four steps: 32, 48 and 64 px
    of_size = {side: flops_per_image("resnet18", side) for side in (32, 48, 64)}
    assert 20 * of_size[32] < training_flops(growing, 10) < 20 * of_size[64]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_the_interval_of_a_mean_is_students(values: list[float]) -> None:
    half = half_width(values)
    assert half is not None
    # At least the normal distribution's, and never narrower with fewer values.
    assert half >= 1.95 * np.std(values, ddof=1) / math.sqrt(len(values)) - 1e-12


def test_a_difference_has_an_interval_from_two_seeds_on() -> None:
    assert difference([0.5], [0.4, 0.5]) == (pytest.approx(0.05), None)
    found, half = difference([0.6, 0.62, 0.64], [0.5, 0.5, 0.5])
    assert found == pytest.approx(0.12)
    assert half == pytest.approx(4.303 * 0.02 / math.sqrt(3), rel=1e-3)
    assert half_width([0.5]) is None


def test_rows_stand_beside_the_longest_run_of_the_first_recipe() -> None:
    runs = [
        *(replace(each, epochs=5, tflop=15.0) for each in runs_of("baseline", 60.0, 0.2, 0.3)),
        *runs_of("baseline", 60.0, 0.4, 0.5),
        *runs_of("fast", 12.0, 0.5, 0.52),
    ]
    section = curves_section(runs, "flowers")
    rows = [dict(zip(HEADER, row, strict=True)) for row in curve_rows(section)]
    assert [row["of it"] for row in rows] == ["25%", "100%", "20%"]
    assert [row["mIoU val + test"] for row in rows] == ["0.250", "0.450", "0.510"]
    assert [row["seeds"] for row in rows] == ["2", "2", "2"]
    (said,) = comparisons(section)
    assert said.startswith(
        "fast, 20 epochs: 20% of the TFLOP and 20% of the time of baseline, 20 epochs, mIoU +0.060 (95 %: "
    )
    text = markdown(section)
    assert "| of baseline, 20 epochs |" in text
    assert said in text


def test_times_beside_other_work_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = curves_section([final_run(cores_of_others=0.0)], "flowers")
    assert not any("other processes" in each for each in quiet.notes)
    busy = curves_section([final_run(cores_of_others=99.0), final_run(seed=2)], "flowers")
    assert any("1 of 2 runs had other processes beside them" in each for each in busy.notes)


@pytest.mark.parametrize("cost", ["tflop", "minutes"])
def test_the_picture_has_a_line_and_a_name_for_each_recipe(cost: Any) -> None:
    runs = [*runs_of("baseline", 60.0, 0.4, 0.5), *runs_of("fast", 12.0, 0.5, 0.55)]
    root = ET.fromstring(curve_chart(curves_section(runs, "s").results, cost, "a & b"))
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"baseline", "fast"} <= set(texts)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 2
    for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 < float(circle.get("cx", "0")) < 600
        assert 0 < float(circle.get("cy", "0")) < 380


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
    args = ["recipes", "--shards", str(tiny_shards), "--recipe", "baseline=1,2", "--recipe", "fast=1",
            "--arch", tiny_arch, "--image-size", "32", "--out", str(out)]  # fmt: skip
    done = CliRunner().invoke(cli, [*args, "--seeds", "1"])
    assert done.exit_code == 0, done.output
    assert {each.name for each in out.iterdir()} == {
        "runs", "recipes.json", "recipes.md", "miou-tflop.svg", "miou-minutes.svg",
    }  # fmt: skip
    folders = {each.name: each.stat().st_mtime_ns for each in (out / "runs").glob(f"*/{LAST}")}
    finals = sorted((out / "runs").glob(f"*/{FINAL}"))
    assert len(finals) == 3
    again = CliRunner().invoke(cli, [*args, "--seeds", "2"])
    assert again.exit_code == 0, again.output
    assert len(list((out / "runs").glob(f"*/{FINAL}"))) == 6
    assert (
        folders.items()
        <= {each.name: each.stat().st_mtime_ns for each in (out / "runs").glob(f"*/{LAST}")}.items()
    )
    record = json.loads((out / "recipes.json").read_text())
    assert [len(each["repeats"]) for each in record["sections"][0]["results"]] == [2, 2, 2]


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


def test_a_run_that_fails_is_named(
    tmp_path: Path, tiny_shards: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
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
