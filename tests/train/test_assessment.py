"""What is said about a split: worked by hand, complete in JSON, plain in print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from train.checkpoints.checkpoint import BEST, load_content, save_checkpoint
from train.evaluate import main
from train.scores.assessment import Assessment, assess
from train.scores.danger import NOTICE
from train.scores.outputs import Outputs
from train.scores.published import published_class_names
from train.scores.species import taxonomy_of

ALBA, NIGRA, RUBRA, VIRIDIS, FLAVA, LUTEA = range(6)
SAID = [
    (ALBA, ALBA), (ALBA, NIGRA), (NIGRA, ALBA), (NIGRA, NIGRA), (RUBRA, ALBA), (RUBRA, RUBRA),
    (VIRIDIS, LUTEA), (FLAVA, FLAVA),
]  # fmt: skip
"""(true, predicted); LUTEA has no image."""


def said(pairs: list[tuple[int, int]], classes: int = 6) -> Outputs:
    """Each image's prediction has logit 3, the others 0."""
    labels = torch.tensor([true for true, _ in pairs])
    logits = 3 * torch.eye(classes)[torch.tensor([predicted for _, predicted in pairs])]
    return Outputs(logits, labels, torch.arange(len(pairs)))


@pytest.fixture
def assessed(tree: Path, tree_names: tuple[str, ...]) -> Assessment:
    return assess(said(SAID), taxonomy_of(tree_names, tree), temperature=2.0)


def test_mistakes_by_height_worked_by_hand(assessed: Assessment) -> None:
    assert assessed.mistakes == (2, 1, 0, 0, 0, 1)
    assert assessed.lca_height == pytest.approx((1 + 1 + 2 + 6) / 4)


def test_scores_by_rank_worked_by_hand(assessed: Assessment) -> None:
    assert list(assessed.ranks) == ["genus", "family", "order"]
    assert {name: each.oa for name, each in assessed.ranks.items()} == {
        "genus": 6 / 8, "family": 7 / 8, "order": 7 / 8,
    }  # fmt: skip
    # Families: Aaceae 6 of 6, Caceae 0 of 1, Daceae 1 of 1, Eaceae said once.
    assert assessed.ranks["family"].miou == pytest.approx((1 + 0 + 1 + 0) / 4)
    # Genera: A 4 hits of 5 said and true, B 1 of 2, C, D, E as above.
    assert assessed.ranks["genus"].miou == pytest.approx((4 / 5 + 1 / 2 + 0 + 1 + 0) / 5)


def test_every_result_lies_in_its_interval(assessed: Assessment) -> None:
    values = {
        **assessed.scores.as_dict(), "top5": assessed.top5, "nll": assessed.calibration.nll,
        "lca_height": assessed.lca_height,
        **{f"{rank}/{name}": value for rank, each in assessed.ranks.items()
           for name, value in each.as_dict().items()},
    }  # fmt: skip
    assert set(values) == set(assessed.intervals)
    for name, found in assessed.intervals.items():
        assert found.low <= values[name] <= found.high, name


def test_the_json_is_complete_and_standard(assessed: Assessment) -> None:
    content = assessed.as_dict()
    json.dumps(content, allow_nan=False)
    assert content["danger"]["images"] == 4
    assert content["danger"]["confusions"] == [
        {"true": "A nigra", "predicted": "A alba", "images": 1},
        {"true": "B rubra", "predicted": "A alba", "images": 1},
    ]
    assert content["danger"]["prices"][0]["rate"] == 0.5
    lutea = content["classes"][LUTEA]
    assert lutea == {
        "name": "E lutea", "precision": 0, "recall": None, "f1": 0, "iou": 0, "support": 0,
        "predicted": 1,
    }  # fmt: skip
    assert content["confusion"][ALBA] == [1, 1, 0, 0, 0, 0]
    assert content["calibration"]["temperature"] == 2
    assert content["notice"] == NOTICE


def test_the_main_results_in_print(assessed: Assessment) -> None:
    lines = assessed.lines()
    assert lines[0].startswith("95 %: mIoU 0.")
    assert lines[1].startswith("top-5 ")
    assert "at temperature 2.000, fitted on val: loss " in lines[1]
    assert [line.split(":")[0] for line in lines[2:5]] == ["by genus", "by family", "by order"]
    assert lines[5] == (
        "mistakes: 4, 2 of them within the genus; mean height of the common ancestor 2.50 of 6"
    )
    assert lines[6] == (
        "dangerous: 2 of 4 images of poisonous or deadly species called edible (50.00%; "
        "95 %: 15.00% to 85.00%)"
    )
    # At temperature 2 an edible prediction is sure to (e^1.5 + 1) / (e^1.5 + 5) = 58 %.
    assert lines[7] == (
        "edible only if at least 95 % sure: 0 (0.00%; 0.00% to 48.99%), at OA 0.3750 for 0.5000"
    )
    assert lines[8:] == [NOTICE]


def test_a_model_without_mistakes_has_no_height(tree: Path, tree_names: tuple[str, ...]) -> None:
    perfect = assess(said([(ALBA, ALBA), (RUBRA, RUBRA)]), taxonomy_of(tree_names, tree), 1.0)
    assert perfect.mistakes == (0,) * 6
    assert perfect.lca_height is None
    assert not any(line.startswith("mistakes") for line in perfect.lines())
    json.dumps(perfect.as_dict(), allow_nan=False)


def test_synonyms_are_one_species_when_merged() -> None:
    taxonomy = taxonomy_of(published_class_names())
    old, new = (taxonomy.names.index(each) for each in ("Clitocybe nuda", "Lepista nuda"))
    result = assess(said([(old, new), (new, new)], 169), taxonomy, 1.0)
    assert result.scores.oa == 0.5
    assert result.merged is not None
    assert result.merged.oa == result.merged.miou == 1
    assert "synonyms merged: mIoU 1.0000  mF1 1.0000  OA 1.0000" in result.lines()
    assert result.danger is None  # no image of a dangerous species


def test_classes_that_no_table_has_get_no_taxonomy() -> None:
    result = assess(said([(0, 0), (1, 0)], 2), taxonomy_of(["Bluebell", "Crocus"]), 1.0)
    assert (result.ranks, result.merged, result.mistakes, result.danger) == ({}, None, None, None)
    assert result.lines()[-1] == (
        "note: the species table has none of these classes, so nothing is said about families or "
        "edibility; --species names another table"
    )


def test_the_command_writes_all_of_it(
    finished_run: Path, command_line: Any, tmp_path: Path
) -> None:
    ended = command_line(main, finished_run, "--json", tmp_path / "row.json")
    assert (ended.code, ended.err) == (0, "")
    content = json.loads((tmp_path / "row.json").read_text())
    assert content["calibration"]["nll"] == pytest.approx(content["loss"], rel=1e-5)
    assert sum(map(sum, content["confusion"])) == content["images"] == 6
    assert [each["name"] for each in content["classes"]] == [
        "Amanita muscaria", "Boletus edulis", "Cantharellus cibarius",
    ]  # fmt: skip
    assert content["danger"]["images"] == 2  # Amanita muscaria is poisonous
    assert NOTICE in ended.out


def test_the_temperature_of_the_run_was_fitted_on_val(
    finished_run: Path, command_line: Any, tmp_path: Path
) -> None:
    content = load_content(finished_run / BEST)
    assert content["progress"]["temperature"] > 0
    content["progress"]["temperature"] = 0.0  # as in a checkpoint from elsewhere
    save_checkpoint(tmp_path / "other.pt", content)
    found = {}
    for name, checkpoint in (("run", finished_run), ("other", tmp_path / "other.pt")):
        for split in ("test", "val"):
            args = (checkpoint, "--split", split, "--json", tmp_path / "row.json")
            assert command_line(main, *args).code == 0
            found[name, split] = json.loads((tmp_path / "row.json").read_text())["calibration"]
    for split in ("test", "val"):
        assert found["other", split]["temperature"] == pytest.approx(
            found["run", split]["temperature"], rel=1e-5
        )
    # On val itself it cannot do harm.
    assert found["run", "val"]["nll_scaled"] <= found["run", "val"]["nll"] + 1e-9


def test_another_species_table_is_read_before_the_work(
    finished_run: Path, command_line: Any, tree: Path, tmp_path: Path
) -> None:
    ended = command_line(main, finished_run, "--species", tree)
    assert ended.code == 0
    assert "the species table has none of these classes" in ended.out
    ended = command_line(main, finished_run, "--species", tmp_path / "none.csv")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: cannot read species table {tmp_path / 'none.csv'}: ")
