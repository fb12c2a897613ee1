"""``bench recipes``: runs to the end, their last weights, what they computed, and who is ahead."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
    Curve,
    FinalRun,
    points,
    read_curve,
    training_flops,
)
from shards.errors import UserError
from train.config.recipes import create_recipe
from train.config.resolution import training_sizes


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


def test_a_length_that_is_asked_for_twice_is_refused() -> None:
    with pytest.raises(
        UserError, match="fast=4 is asked for 2 times; name each length of a recipe"
    ):
        points([Curve("fast", (2, 4)), Curve("fast", (4,))], 1, "resnet18", 128)


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
    assert set(shown) <= set(training_sizes(config))


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


def test_times_beside_other_work_are_marked() -> None:
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
