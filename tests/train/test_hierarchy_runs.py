"""Runs whose loss knows the tree: they resume, say what they do, and their models are used like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import train.enroll
import train.evaluate
import train.export
import train.predict
import train.study
from shards.errors import Interrupted, UserError
from train.checkpoints.checkpoint import BEST, LAST, load_checkpoint, load_content, save_checkpoint
from train.checkpoints.pretrained import load_start
from train.method.models import create_model
from train.runs.log import LOG
from train.scores.species import class_tree

ZEROS = ((0.0,) * 3, (1.0,) * 3)
LOSSES = ("soft-labels", "prototypes")
TABLE = """\
species,genus,family,order,class,phylum,edibility,synonym_of
Amanita muscaria,Amanita,Amanitaceae,Agaricales,,,,
Boletus edulis,Boletus,Boletaceae,Agaricales,,,,
Cantharellus cibarius,Cantharellus,Hydnaceae,Cantharellales,,,,
"""
"""In which the first two are nearer to each other than to the third."""


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return str(path)


def test_a_table_that_says_nothing_of_these_classes_is_refused(
    train_tiny: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        train_tiny(tmp_path / "run", hierarchy_loss="soft-labels")
    assert refused.value.format_message() == (
        "by species table species.csv the 3 classes are all equally far from each other, so a hierarchy "
        "loss has nothing to say; name a table of these classes with --species (CSV, columns "
        "species,genus,family,order,class,phylum,edibility,synonym_of)"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_goes_on_exactly_without_the_table_that_it_began_with(
    tmp_path: Path,
    train_tiny: Any,
    stop_after: Any,
    resume: Any,
    outcome_of: Any,
    table: str,
    loss: str,
) -> None:
    fields = {"hierarchy_loss": loss, "species": table, "epochs": 2}
    train_tiny(tmp_path / "unbroken", **fields)
    stop_after(2)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "broken", **fields)
    Path(table).unlink()
    resume(tmp_path / "broken")
    assert outcome_of(tmp_path / "broken") == outcome_of(tmp_path / "unbroken")


def test_the_tree_is_in_what_resumes_alone_and_one_that_is_none_is_refused(
    tmp_path: Path, train_tiny: Any, table: str
) -> None:
    train_tiny(tmp_path / "run", hierarchy_loss="prototypes", species=table, epochs=1)
    saved = load_checkpoint(tmp_path / "run" / LAST)
    assert saved.tree is not None
    assert torch.equal(saved.tree, class_tree(saved.class_names, Path(table)))
    assert load_checkpoint(tmp_path / "run" / BEST).tree is None
    content = load_content(tmp_path / "run" / LAST)
    save_checkpoint(
        tmp_path / "wrong.pt", {**content, "tree": torch.zeros(3, 3, dtype=torch.int64)}
    )
    with pytest.raises(UserError, match="this is no tree of 3 classes"):
        load_checkpoint(tmp_path / "wrong.pt")


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_says_what_its_loss_makes_of_the_tree(
    tmp_path: Path, train_tiny: Any, table: str, loss: str
) -> None:
    train_tiny(tmp_path / "run", hierarchy_loss=loss, hierarchy_beta=2, species=table, epochs=1)
    # Two labels keep 1 / (1 + exp(-1) + exp(-2)), the third 1 / (1 + 2 exp(-2)).
    how = {"soft-labels": "a label keeps 71% of itself", "prototypes": "distortion weighs 1"}[loss]
    line = f"hierarchy loss {loss} by {table}, common ancestors up to height 6: {how}"
    assert line in (tmp_path / "run" / LOG).read_text().splitlines()


def test_prototypes_are_evaluated_predicted_and_exported_like_any_last_layer(
    tmp_path: Path, train_tiny: Any, tiny_dataset: Path, command_line: Any, table: str
) -> None:
    run = tmp_path / "run"
    train_tiny(run, hierarchy_loss="prototypes", species=table, epochs=1)
    weights = load_checkpoint(run / BEST).model
    assert weights["8.weight"].shape == (3, 64)
    assert "8.bias" not in weights
    (row,) = (each for each in (run / LOG).read_text().splitlines() if each.startswith("test: "))
    ended = command_line(train.evaluate.main, run, "--species", table)
    assert (ended.code, ended.out.splitlines()[0]) == (0, row)
    photos = tiny_dataset / "merged_dataset" / "Boletus edulis"
    assert command_line(train.predict.main, run, photos).code == 0
    for name in ("torch-export", "safetensors"):
        ended = command_line(train.export.main, run, "--format", name, "--out", tmp_path / name)
        assert ended.code == 0, ended.err
        assert "6 photographs: 0 other labels" in ended.out


def test_what_prototypes_cannot_be_exported_to_is_said(
    tmp_path: Path, train_tiny: Any, command_line: Any, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_tiny(tmp_path / "run", hierarchy_loss="prototypes", species=table, epochs=1)
    ended = command_line(train.export.main, tmp_path / "run", "--format", "onnx", "--int8")
    assert (ended.code, ended.out) == (2, "")
    assert (
        "--int8 is for networks that end in a linear layer, and this one ends in protot"
        in ended.err
    )
    monkeypatch.setattr("train.checkpoints.course.published_table", lambda: {"tinynet": None})
    ended = command_line(train.export.main, tmp_path / "run", "--format", "lightning")
    assert ended.code == 2
    assert (
        "the course's network ends in a linear layer, this one in prototypes; choose" in ended.err
    )


def test_a_class_is_enrolled_as_one_more_point_and_sets_and_predictions_know_it(
    tmp_path: Path, train_tiny: Any, tiny_dataset: Path, command_line: Any, table: str
) -> None:
    run, out = tmp_path / "run", tmp_path / "more.pt"
    train_tiny(run, hierarchy_loss="prototypes", species=table, epochs=1)
    photos = tiny_dataset / "merged_dataset" / "Boletus edulis"
    ended = command_line(train.enroll.main, run, "--species", "Tuber", photos, "--out", out)
    assert ended.code == 0, ended.err
    before, after = load_checkpoint(run / BEST), load_checkpoint(out)
    assert after.class_names == (*before.class_names, "Tuber")
    (layer,) = (
        name for name in before.model if before.model[name].shape != after.model[name].shape
    )
    assert torch.equal(after.model[layer][:-1], before.model[layer])
    ended = command_line(train.predict.main, out, photos, "--top", 4, "--format", "csv")
    assert ended.code == 0, ended.err
    assert all("Tuber" in line for line in ended.out.splitlines()[1:])
    ended = command_line(train.study.main, "conformal", run, "--resplits", 5)
    assert ended.code == 0, ended.err


@pytest.mark.slow
def test_prototypes_are_exported_to_onnx(
    tmp_path: Path, train_tiny: Any, command_line: Any, table: str
) -> None:
    train_tiny(tmp_path / "run", hierarchy_loss="prototypes", species=table, epochs=1)
    ended = command_line(train.export.main, tmp_path / "run", "--format", "onnx")
    assert ended.code == 0, ended.err
    assert "6 photographs: 0 other labels" in ended.out


def test_a_start_from_prototypes_keeps_all_but_the_last_layer(
    tmp_path: Path, train_tiny: Any, make_config: Any, table: str
) -> None:
    run = tmp_path / "run"
    train_tiny(run, hierarchy_loss="prototypes", species=table, epochs=1)
    saved = load_checkpoint(run / BEST)
    backbone: nn.Module = create_model(saved.config.arch, 3, *ZEROS).backbone
    line = load_start(backbone, make_config(finetune_from=str(run)), 3)
    assert line == f"starting from {run}: 8 tensors loaded; 8 is new"
    assert torch.equal(backbone.state_dict()["0.weight"], saved.model["0.weight"])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_frozen_network_gets_a_last_layer_that_knows_the_tree(
    tmp_path: Path,
    train_tiny: Any,
    finished_run: Path,
    table: str,
    loss: str,
    command_line: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("train.engine.probe.PENALTIES", (1.0, 0.1))
    run = tmp_path / "run"
    train_tiny(
        run, head="only", hierarchy_loss=loss, hierarchy_beta=2, species=table, epochs=1,
        finetune_from=str(finished_run),
    )  # fmt: skip
    before, after = (load_checkpoint(each / BEST).model for each in (finished_run, run))
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["8.weight"], after["8.weight"])
    (row,) = (each for each in (run / LOG).read_text().splitlines() if each.startswith("test: "))
    assert command_line(train.evaluate.main, run).out.splitlines()[0] == row
