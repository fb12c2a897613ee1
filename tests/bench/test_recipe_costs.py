"""Each recipe's time on the published data follows from its own samples, sizes and measured rates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.__main__ import cli
from bench.end_to_end import STEP, TOGETHER
from bench.page import page
from bench.recipe_costs import Cost, Phase, cost_results, cost_rows, costs, phases
from bench.result import Report, Result, Section
from bench.table import render_table, table_section
from train.config.recipes import RECIPES, create_recipe

SETTINGS = {
    "batch_size": 8, "precision": "fp32", "device": "cpu", "loader": "opencv", "shards": "set"
}  # fmt: skip
ENVIRONMENT = {
    "command": "bench table", "time": "2026-11-25T10:00:00+0000", "commit": "abc", "load_before": 0.1,
    "machine": {
        "cpu": "a", "cores_allowed": 2, "cores_present": 2, "memory_available": 1, "gpus": []
    },
    "versions": {"torch": "2"},
}  # fmt: skip


def measured(*rates: float) -> Section:
    results = (Result(name=STEP, repeats=rates), Result(name=TOGETHER, repeats=rates))
    return Section(name="end_to_end", title="", results=results, settings=SETTINGS)


@pytest.mark.parametrize(
    ("recipe", "size", "images"),
    [
        ("baseline", 384, 20 * 689_520),
        ("small-gpu", 384, 20 * 689_520),
        ("mini", 384, 20 * 408 * 169),
        ("finetune", 224, 4 * 72_870),
        ("strong", 224, 8 * 72_870),
    ],
)
def test_a_recipe_shows_its_own_samples_at_its_own_size(
    recipe: str, size: int, images: int
) -> None:
    assert phases(create_recipe(recipe)) == (Phase(size, images),)


def test_an_epoch_size_takes_the_place_of_the_rows() -> None:
    config = replace(create_recipe("baseline"), epochs=3, epoch_size=1000)
    assert phases(config) == (Phase(384, 3000),)


def test_a_recipe_without_a_training_step_has_no_phase() -> None:
    assert phases(create_recipe("probe")) == ()


def test_growing_images_have_a_phase_for_each_size_and_equal_shares_of_the_samples() -> None:
    config = replace(create_recipe("baseline"), start_size=128, image_size=224, samples=4000)
    found = phases(config)
    assert [each.image_size for each in found] == [128, 160, 192, 224]
    assert [each.images for each in found] == [1000] * 4


def test_recipes_from_weights_keep_their_architecture_and_the_others_take_each() -> None:
    found = costs(["resnet18", "resnet50"])
    assert {each.recipe for each in found} == set(RECIPES)
    by_recipe = {name: [each.arch for each in found if each.recipe == name] for name in RECIPES}
    assert by_recipe["mini"] == ["resnet18", "resnet50"]
    assert by_recipe["finetune"] == ["tf_efficientnet_lite0"]


def test_the_time_is_the_sum_over_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    growing = Cost("growing", "resnet18", (Phase(128, 1000.0), Phase(224, 600.0)))
    monkeypatch.setattr("bench.recipe_costs.costs", lambda archs: [growing])
    sized = {("resnet18", 128): measured(10.0, 20.0), ("resnet18", 224): measured(3.0, 6.0)}
    (result,), (row,) = cost_results(["resnet18"], sized)
    assert result.repeats == pytest.approx((1000 / 10 + 600 / 3, 1000 / 20 + 600 / 6))
    assert not result.measured
    assert "extrapolated" in result.note
    section = Section(name="table", title="", results=(result,), settings={"recipes": [row]})
    assert cost_rows(section)[0][3:5] == ["128-224", "15.0-4.50"]
    (missing,), _ = cost_results(["resnet18"], {("resnet18", 128): measured(10.0)})
    assert missing.note == "not measured: ask with --recipe growing"


def test_the_table_shows_the_recipes_beside_the_baseline() -> None:
    section = table_section({"resnet18": measured(10.0)})
    lines = render_table(section).splitlines()
    start = lines.index("recipes on the published data, their own samples at their own sizes:")
    cells = {line.split()[0]: line.split() for line in lines[start + 2 : start + 2 + len(RECIPES)]}
    assert cells["baseline"][1:5] == ["resnet18", "13.8", "384", "10.0"]
    assert cells["mini"][1:5] == ["resnet18", "1.38", "384", "10.0"]
    assert cells["mini"][-1] == "10%"
    assert cells["finetune"][2:6] == ["0.29", "224", "-", "-"]
    assert "ask with --recipe finetune" in "\n".join(lines)
    assert "no training step" in "\n".join(lines)


def test_without_a_measurement_the_recipes_are_left_out() -> None:
    assert "recipes on the published data" not in render_table(table_section({}))


def test_the_page_holds_recipes_and_finished_runs() -> None:
    run = {
        "run": "a run", "arch": "resnet18", "recipe": "mini", "image_size": 384, "epochs": 20,
        "seconds": 4000.0, "images_per_s": 20.0, "miou": 0.7, "incomparable": "other classes",
    }  # fmt: skip
    section = table_section({"resnet18": measured(10.0)}, [run])
    text = page([Report(environment=ENVIRONMENT, sections=(section,))])
    for shown in ("38 h 18 min (extrapolated)", "a run", "1 h 06 min", "not comparable"):
        assert shown in text


def test_an_unknown_recipe_is_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["table", "--recipe", "mimi", "--shards", str(tmp_path)])
    assert done.exit_code == 2
    assert "unknown recipe 'mimi'; did you mean 'mini'?" in done.output
