"""Checkpoints of the course: read without its libraries, every key accounted for, and written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

import train.checkpoints.course
import train.export
from shards.errors import UserError
from shards.format import Manifest
from train.checkpoints.checkpoint import BEST, Checkpoint, Progressed, TrainedOn, save_checkpoint
from train.checkpoints.course import (
    RESNETS,
    infer_arch,
    lightning_content,
    load_trained,
    read_course_checkpoint,
)
from train.checkpoints.weights import Weights
from train.config.recipes import create_recipe
from train.evaluate import main
from train.scores.comparison import comparison_table
from train.scores.evaluation import Compared, Evaluation
from train.scores.published import published_class_names

CLASSES = 3


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(3)
    return dict(torchvision.models.resnet18(num_classes=CLASSES).state_dict())


def lightning(weights: Weights, prefix: str) -> dict[str, Any]:
    """What Lightning 2.5 saves of the baseline: weights among objects of many classes."""
    return {
        "epoch": 19,
        "global_step": 107740,
        "pytorch-lightning_version": "2.5.2",
        "state_dict": {f"{prefix}{name}": each for name, each in weights.items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.7)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        "lr_schedulers": [{"T_max": 20}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"optimizer": partial(torch.optim.AdamW, lr=1e-3), "compile": True},
        "datamodule_hyper_parameters": {"train_transform": torchvision.transforms.ToTensor()},
    }


FORMS: dict[str, Callable[[Weights], Any]] = {
    "net._orig_mod.": lambda weights: lightning(weights, "net._orig_mod."),
    "net.": lambda weights: lightning(weights, "net."),
    "module.": lambda weights: {"state_dict": {f"module.{name}": each for name, each in weights.items()}},
    "": lambda weights: weights,
}  # fmt: skip


@pytest.mark.parametrize("prefix", FORMS)
def test_every_form_loads_with_every_key_accounted_for(
    tmp_path: Path, weights: Weights, prefix: str
) -> None:
    path = tmp_path / "baseline.ckpt"
    torch.save(FORMS[prefix](weights), path)
    found = read_course_checkpoint(path)
    assert (found.arch, found.num_classes, found.class_names) == ("resnet18", CLASSES, None)
    assert list(found.weights) == list(weights)
    assert all(torch.equal(found.weights[name], each) for name, each in weights.items())
    under = f" under {prefix}*" if prefix else ""
    assert str(found) == (
        f"{path}: resnet18, 3 classes, all 122 tensors accounted for{under}; it names no classes: "
        "the shard set's order is taken"
    )


def test_a_pth_with_labels_names_its_classes(tmp_path: Path, weights: Weights) -> None:
    torch.save({"model_state_dict": weights, "labels": ["a", "b", "c"]}, tmp_path / "a.pth")
    assert read_course_checkpoint(tmp_path / "a.pth").class_names == ("a", "b", "c")
    torch.save({"model_state_dict": weights, "labels": ["a", "b"]}, tmp_path / "b.pth")
    with pytest.raises(UserError, match="names 2 classes, its network has 3"):
        read_course_checkpoint(tmp_path / "b.pth")


@pytest.mark.parametrize("arch", RESNETS.values())
def test_every_resnet_of_torchvision_is_known_by_its_shapes(arch: str) -> None:
    with torch.device("meta"):
        state = torchvision.models.get_model(arch, num_classes=7).state_dict()
    assert infer_arch(state, Path("a.pth")) == (arch, 7)


def changed(weights: Weights, **fields: Any) -> Weights:
    return {name: each for name, each in (weights | fields).items() if each is not None}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"bn1.bias": None}, "does not fit resnet18: 1 missing (bn1.bias)"),
        ({"head.bias": torch.zeros(1)}, "does not fit resnet18: 1 unexpected (head.bias)"),
        ({"bn1.bias": torch.zeros(3)}, "1 of another shape (bn1.bias (3,), expected (64,))"),
        ({"net.bn1.bias": torch.zeros(64)}, "holds some weights twice, under  and net."),
        ({"fc.weight": None}, "holds no ResNet: no conv1, layer1 and fc, but conv1.weight, bn1.weight"),
        ({"layer1.0.conv1.weight": torch.zeros(32, 64, 3, 3)},
         "holds a ResNet that torchvision does not have: (2, 2, 2, 2) blocks of 2 convolutions, the "
         "first 32 wide"),
        ({"layer1.0.conv1.weight": torch.zeros(())},
         "holds no ResNet: a convolution of layer1 has shape (), expected four dimensions"),
        ({"conv1.weight": torch.zeros(3)}, "1 of another shape (conv1.weight (3,), expected (64, 3, 7, 7))"),
        ({"fc.weight": torch.zeros(0, 512)}, "tells no classes apart: fc.weight has shape (0, 512)"),
        ({"bn1.bias": torch.zeros(64, dtype=torch.int64)}, "1 of another type (bn1.bias torch.int64)"),
        ({"bn1.running_var": torch.full((64,), float("inf"))},
         "1 of its tensors hold values that are no finite numbers (bn1.running_var)"),
        ({"a\n\x1b[31m" + "b" * 100: torch.zeros(1)}, "1 unexpected (a\\n\\x1b[31m" + "b" * 69 + "...)"),
        ({"fc.weight": "x"}, "holds no weights: expected names and tensors, by themselves or under "
                             "state_dict or model_state_dict"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    tmp_path: Path, weights: Weights, fields: dict[str, Any], named: str
) -> None:
    torch.save(changed(weights, **fields), tmp_path / "a.ckpt")
    with pytest.raises(UserError) as refused:
        read_course_checkpoint(tmp_path / "a.ckpt")
    assert named in refused.value.format_message()


class RunsACommand:
    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self._command,)


def bad_file(path: Path, kind: str, proof: Path) -> None:
    torch.save({"state_dict": RunsACommand(f"touch {proof}")}, path)
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "foreign":
        path.write_text("epoch,loss\n1,2.0\n")
    elif kind == "an image":
        path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    elif kind == "no network":
        torch.save({"epoch": 3}, path)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("malicious", "holds no weights"),
        ("truncated", "no checkpoint"),
        ("empty", "no checkpoint"),
        ("foreign", "no checkpoint"),
        ("an image", "no checkpoint"),
        ("no network", "holds no weights"),
    ],
)
def test_a_bad_file_is_one_line_and_runs_nothing(
    command_line: Any, tmp_path: Path, kind: str, named: str
) -> None:
    path, proof = tmp_path / "baseline.ckpt", tmp_path / "ran"
    bad_file(path, kind, proof)
    ended = command_line(main, path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {path}")
    assert named in ended.err
    assert ended.err.count("\n") == 1
    assert not proof.exists()


def test_a_last_bad_file_is_refused_before_the_first_is_evaluated(
    command_line: Any, finished_run: Path, tmp_path: Path
) -> None:
    bad_file(tmp_path / "bad.ckpt", "malicious", tmp_path / "ran")
    ended = command_line(main, finished_run, tmp_path / "bad.ckpt")
    assert (ended.code, ended.out) == (2, "")


def test_another_number_of_classes_is_refused(
    command_line: Any, tmp_path: Path, tiny_shards: Path
) -> None:
    path = tmp_path / "five.pth"
    torch.save(torchvision.models.resnet18(num_classes=5).state_dict(), path)
    ended = command_line(main, path, "--shards", tiny_shards)
    assert ended.code == 2
    assert ended.err == (
        f"error: {path} tells 5 classes apart, {tiny_shards} has 3; pass the shard set of its own "
        "classes with --shards\n"
    )


def test_another_order_of_classes_is_refused(
    tmp_path: Path, weights: Weights, tiny_shards: Path
) -> None:
    names = Manifest.read(tiny_shards).class_names
    torch.save({"model_state_dict": weights, "labels": list(names[::-1])}, tmp_path / "a.pth")
    found = read_course_checkpoint(tmp_path / "a.pth")
    where = TrainedOn(directory="shards", fingerprint="")
    with pytest.raises(UserError) as refused:
        found.on(names, where)
    assert refused.value.format_message() == (
        f"class 0 is {names[-1]!r} to {tmp_path / 'a.pth'} and {names[0]!r} in shards: the order "
        "differs, so every score would be wrong; pack with the checkpoint's own class list"
    )
    # One that names none, but has as many as the published set, has the published order.
    published = published_class_names()
    unnamed = replace(found, class_names=None, num_classes=len(published))
    with pytest.raises(UserError, match=f"class 0 is {published[0]!r} to .* the order differs"):
        unnamed.on(published[::-1], where)
    assert unnamed.on(published, where).config == replace(
        create_recipe("baseline"), arch="resnet18"
    )


def test_several_checkpoints_make_one_table(
    command_line: Any,
    tmp_path: Path,
    weights: Weights,
    finished_run: Path,
    tiny_shards: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick = replace(create_recipe("baseline"), image_size=32)
    monkeypatch.setattr(train.checkpoints.course, "create_recipe", lambda _name: quick)
    path = tmp_path / "baseline.ckpt"
    torch.save(lightning(weights, "net._orig_mod."), path)
    ended = command_line(
        main, path, finished_run, "--shards", tiny_shards, "--json", tmp_path / "rows.json"
    )
    assert ended.code == 0, ended.err
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["checkpoint"] for row in rows] == [str(path), str(finished_run)]
    assert "note: device" not in ended.out  # a course's checkpoint has no settings of a run
    table = ended.out.splitlines()[-5:]
    assert table[0].split()[:4] == ["checkpoint", "arch", "mIoU", "measured"]
    assert table[1].split()[2:5] == [f"{100 * rows[0]['miou']:.1f}", "-", "-"]
    assert table[3] == f"no published row beside {path}: other classes than the published set"


def test_one_that_does_not_belong_to_the_set_is_refused_before_any_is_evaluated(
    command_line: Any, tmp_path: Path, weights: Weights, finished_run: Path, tiny_shards: Path
) -> None:
    names = Manifest.read(tiny_shards).class_names
    torch.save({"model_state_dict": weights, "labels": list(names[::-1])}, tmp_path / "a.pth")
    rows = tmp_path / "rows.json"
    ended = command_line(
        main, finished_run, tmp_path / "a.pth", "--shards", tiny_shards, "--json", rows
    )
    assert ended.code == 2
    assert "the order differs" in ended.err
    assert ended.out == ""
    assert not rows.exists()


def test_the_table_sets_the_published_scores_and_the_difference_beside_the_measured() -> None:
    result = Evaluation(torch.tensor([[8, 2], [2, 8]]), 1.0, 1.0)
    rows = [
        Compared("a.ckpt", "resnet18", result, None),
        Compared("b.pt", "resnet18", result, "other"),
    ]
    lines = comparison_table(rows)
    assert lines[1].split() == [
        "a.ckpt", "resnet18", "66.7", "69.0", "-2.3", "80.0", "80.8", "-0.8", "80.0", "85.1", "-5.1",
    ]  # fmt: skip
    assert lines[2].split() == ["b.pt", "resnet18", "66.7", "-", "-", "80.0", "-", "-", "80.0", "-", "-"]  # fmt: skip
    assert lines[3] == "no published row beside b.pt: other"
    assert [line[:9] for line in lines[4:]] == ["caution: ", "caution: "]


# Writing.


@pytest.fixture
def run_of_resnet18(tmp_path: Path, weights: Weights) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    saved = Checkpoint(
        config=replace(create_recipe("baseline"), arch="resnet18"),
        resolved={},
        class_names=("a", "b", "c"),
        shards=TrainedOn(directory="", fingerprint=""),
        order_hash="",
        versions={},
        model=weights,
        progress=Progressed(epoch=2, samples_seen=300),
    )
    content = {name: getattr(saved, name) for name in saved.__slots__}
    content |= {
        "config": saved.config.to_dict(),
        "shards": {"directory": "", "fingerprint": ""},
        "progress": dict(vars(saved.progress)),
    }
    save_checkpoint(folder / BEST, content)
    return folder


def test_what_is_exported_is_read_again_with_its_classes(
    command_line: Any, run_of_resnet18: Path, weights: Weights
) -> None:
    ended = command_line(train.export.main, run_of_resnet18, "--format", "lightning")
    target = run_of_resnet18 / "best.ckpt"
    assert (ended.code, ended.out) == (0, f"wrote {target} (lightning)\n")
    content = torch.load(target, weights_only=True)  # plain data alone
    assert set(content["state_dict"]) == {f"net.{name}" for name in weights}
    assert (content["epoch"], content["global_step"]) == (2, 3)
    found = read_course_checkpoint(target)
    assert found.class_names == ("a", "b", "c")
    assert all(torch.equal(found.weights[name], each) for name, each in weights.items())
    again = command_line(train.export.main, run_of_resnet18, "--format", "lightning")
    assert (again.code, again.err) == (2, f"error: {target} exists already; choose another --out\n")


def test_an_architecture_that_the_course_lacks_is_refused(run_of_resnet18: Path) -> None:
    saved = load_trained(run_of_resnet18 / BEST)
    assert isinstance(saved, Checkpoint)
    with pytest.raises(
        UserError, match="the course has no vgg11; --format lightning is for resnet18"
    ):
        lightning_content(replace(saved, config=replace(saved.config, arch="vgg11")))
