"""A class is enrolled from a few photographs: found afterwards, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from train.checkpoints.checkpoint import BEST, load_checkpoint
from train.engine.logistic import Head, LogisticRegression, Samples
from train.engine.point_fit import Points
from train.enroll import main
from train.evaluate import main as evaluate_main
from train.method.prototypes import class_means
from train.novelty.enrolment import Enrolment
from train.predict import main as predict_main

NEW = "Boletus edulis"
LAYER = "8"


def clouds(classes: int, each: int, seed: int, spread: float = 0.2) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(each)
    noise = spread * torch.randn(len(labels), 8, generator=generator)
    return Samples(torch.eye(8)[labels] + noise, labels)


@pytest.fixture(scope="module")
def trained_on_three() -> tuple[Head, Samples]:
    """A head for classes 0 to 2 of :func:`clouds`; the row of class 3 has seen nothing."""
    train = clouds(4, 60, 0)
    old = Samples(train.features[train.labels < 3], train.labels[train.labels < 3])
    return LogisticRegression(old, torch.ones(len(old)), 4).fit(1e-2), old


KNOWN = torch.tensor([True, True, True, False])


def test_a_class_is_found_after_five_photographs_and_old_ones_stay(
    trained_on_three: tuple[Head, Samples],
) -> None:
    head, old = trained_on_three
    enrolment = Enrolment(head, KNOWN, old)
    test = clouds(4, 100, 1)
    new = test.labels == 3
    row = enrolment.fit(test.features[new][:5])
    found = enrolment.is_found(row, test.features)
    assert found[new][5:].float().mean() > 0.9
    assert found[~new].float().mean() < 0.05
    assert enrolment.found_when_left_out(test.features[new][:5]) >= 4


def test_the_row_is_the_minimum_of_the_whole_cross_entropy_with_other_rows_still(
    trained_on_three: tuple[Head, Samples],
) -> None:
    head, old = trained_on_three
    photos = clouds(4, 5, 2).features[-5:]
    penalty = 1e-2
    row = Enrolment(head, KNOWN, old).fit(photos, penalty)
    mean, std = old.features.mean(0), old.features.std(0, correction=0)
    weight, bias = (each.clone().requires_grad_() for each in (row.weight, row.bias))

    def logits(features: torch.Tensor) -> torch.Tensor:
        z = features @ weight + bias
        return torch.cat([head.logits(features)[:, :3], z[:, None]], 1)

    loss = (
        3 / 4 * cross_entropy(logits(old.features), old.labels)
        + 1 / 4 * cross_entropy(logits(photos), torch.full((5,), 3))
        + penalty / 2 * (weight * std).square().sum()
    )
    of_weight, of_bias = torch.autograd.grad(loss, [weight, bias])
    assert mean.shape == of_weight.shape
    assert (of_weight / std).abs().max() < 1e-3
    assert of_bias.abs() < 1e-3


def test_a_point_is_found_by_nearness_and_is_the_minimum_of_the_whole_cross_entropy() -> None:
    train, test = clouds(4, 60, 0), clouds(4, 100, 1)
    old = Samples(train.features[train.labels < 3], train.labels[train.labels < 3])
    head = Points(class_means(old.features, old.labels, 4))
    photos, new, penalty = test.features[test.labels == 3][:5], test.labels == 3, 1e-2
    enrolment = Enrolment(head, KNOWN, old)
    row = enrolment.fit(photos, penalty)
    assert row.bias is None
    found = enrolment.is_found(row, test.features)
    assert found[new][5:].float().mean() > 0.9
    assert found[~new].float().mean() < 0.05

    unit = old.features.var(0, correction=0).mean().sqrt()
    way = ((row.weight - photos.mean(0)) / unit).requires_grad_()
    points = torch.cat([head.points[:3], (photos.mean(0) + unit * way)[None]])
    loss = (
        3 / 4 * cross_entropy(Points(points).logits(old.features), old.labels)
        + 1 / 4 * cross_entropy(Points(points).logits(photos), torch.full((5,), 3))
        + penalty / 2 * way.square().sum()
    )
    (slope,) = torch.autograd.grad(loss, way)
    assert slope.abs().max() < 1e-3


def test_no_answer_changes_but_to_the_new_class(trained_on_three: tuple[Head, Samples]) -> None:
    head, old = trained_on_three
    enrolment = Enrolment(head, KNOWN, old)
    row = enrolment.fit(clouds(4, 5, 3).features[-5:])
    test = clouds(4, 50, 4)
    before = head.logits(test.features)[:, :3]
    after = torch.cat([before, (test.features @ row.weight + row.bias)[:, None]], 1).argmax(1)
    found = enrolment.is_found(row, test.features)
    assert torch.equal(after == 3, found)
    assert torch.equal(after[~found], before.argmax(1)[~found])


def photographs(dataset: Path, species: str, count: int) -> list[Path]:
    return sorted((dataset / "merged_dataset" / species).iterdir())[:count]


def test_a_held_out_class_takes_its_own_row_and_is_evaluated_with_the_others(
    held_out_run: Path, tiny_dataset: Path, command_line: Any, tmp_path: Path
) -> None:
    out = tmp_path / "new.pt"
    ended = command_line(
        main, held_out_run, "--species", NEW, *photographs(tiny_dataset, NEW, 5), "--out", out
    )
    assert ended.code == 0, ended.err
    assert f"enrolled 'Boletus edulis' from 5 photographs: {out}\n" in ended.out
    before, after = load_checkpoint(held_out_run / BEST), load_checkpoint(out)
    assert after.class_names == before.class_names
    assert after.enrolled == {NEW: 5}
    assert after.config.holdout == ("Amanita muscaria",)
    for name, values in before.model.items():
        same = after.model[name] == values
        if name in (f"{LAYER}.weight", f"{LAYER}.bias"):
            assert same[[0, 2]].all()
            assert not same[1].all()
        else:
            assert same.all()
    ended = command_line(evaluate_main, out)
    assert ended.code == 0
    assert "4 images" in ended.out.splitlines()[0]


def test_a_class_of_another_name_is_one_more_and_predict_and_evaluate_know_it(
    held_out_run: Path, tiny_dataset: Path, command_line: Any, tmp_path: Path
) -> None:
    out, photos = tmp_path / "new.pt", photographs(tiny_dataset, NEW, 5)
    assert command_line(
        main, held_out_run, "--species", "Boletus novus", *photos, "--out", out
    ).code == 0  # fmt: skip
    saved = load_checkpoint(out)
    assert saved.class_names[-1] == "Boletus novus"
    assert saved.model[f"{LAYER}.weight"].shape[0] == 4
    ended = command_line(predict_main, out, *photos, "--top", 4, "--format", "csv")
    assert ended.code == 0
    assert all("Boletus novus" in line for line in ended.out.splitlines()[1:])
    ended = command_line(evaluate_main, out)
    assert (ended.code, "2 images" in ended.out.splitlines()[0]) == (0, True)
    again = command_line(main, out, "--species", NEW, *photos, "--out", tmp_path / "two.pt")
    assert again.code == 0
    assert load_checkpoint(tmp_path / "two.pt").enrolled == {"Boletus novus": 5, NEW: 5}


def test_photographs_that_cannot_be_read_are_left_out(
    held_out_run: Path, tiny_dataset: Path, command_line: Any, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    photo = photographs(tiny_dataset, NEW, 1)[0]
    ask = (main, held_out_run, "--species", NEW, "--out", tmp_path / "new.pt")
    ended = command_line(*ask, photo, tmp_path / "bad.jpg")
    assert ended.code == 0
    assert ended.err.startswith(f"skipped {tmp_path / 'bad.jpg'}: not an image")
    assert "from 1 photograph: " in ended.out
    (tmp_path / "new.pt").unlink()
    ended = command_line(*ask, tmp_path / "bad.jpg")
    assert ended.code == 1
    assert f"error: no photograph that can be read in {tmp_path / 'bad.jpg'}\n" in ended.err


def test_a_photograph_that_is_named_twice_counts_once(
    held_out_run: Path, tiny_dataset: Path, command_line: Any, tmp_path: Path
) -> None:
    photo = photographs(tiny_dataset, NEW, 1)[0]
    twice = (photo, photo.parent / ".." / photo.parent.name / photo.name)
    ended = command_line(main, held_out_run, "--species", NEW, *twice, "--out", tmp_path / "new.pt")
    assert ended.code == 0, ended.err
    assert "from 1 photograph: " in ended.out


def test_what_cannot_be_enrolled_is_refused(
    held_out_run: Path, tiny_dataset: Path, command_line: Any, tmp_path: Path
) -> None:
    photo = photographs(tiny_dataset, NEW, 1)[0]
    (tmp_path / "there.pt").touch()
    for species, out, message in (
        ("Cantharellus cibarius", "a.pt", "the model knows 'Cantharellus cibarius' already; "),
        (" ", "a.pt", "--species ' ' is no name"),
        ("Boletus edulis ", "a.pt", "--species 'Boletus edulis ' is no name: it is empty, or has"),
        ("B" * 101, "a.pt", "... is no name: choose one line of at most 100 letters"),
        ("Boletus\nnovus", "a.pt", "... is no name: choose one line of at most 100 letters"),
        ("Unknown", "a.pt", "'Unknown' is what predict says of photographs of no species"),
        ("boletus edulis", "a.pt", "the model has a class 'Boletus edulis'; name that one"),
        (NEW, "there.pt", "there.pt exists already; choose another --out"),
        (NEW, "no/a.pt", f"--out {tmp_path / 'no/a.pt'}: no folder {tmp_path / 'no'}"),
    ):
        ended = command_line(
            main, held_out_run, photo, "--species", species, "--out", tmp_path / out
        )
        assert (ended.code, ended.out) == (2, "")
        assert message in ended.err


def test_another_set_with_other_classes_is_still_refused(
    held_out_run: Path, tiny_dataset: Path, command_line: Any, tmp_path: Path
) -> None:
    """A checkpoint may know more classes than the set only if they were enrolled."""
    out = tmp_path / "new.pt"
    photo = photographs(tiny_dataset, NEW, 1)[0]
    assert command_line(main, held_out_run, photo, "--species", "X y", "--out", out).code == 0
    content = torch.load(out, weights_only=True)
    torch.save({**content, "enrolled": {}}, out)
    ended = command_line(evaluate_main, out)
    assert ended.code == 2
    assert "has 3 classes, the checkpoint was trained on 4 others" in ended.err
