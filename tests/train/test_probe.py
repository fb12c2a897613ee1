"""The probe: features once, kept in the run folder, and an ordinary checkpoint at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import train.engine.features
import train.engine.probe
from shards.errors import Interrupted, UserError
from train.checkpoints.checkpoint import BEST, LAST, load_checkpoint, load_content
from train.config.resolve import resolve
from train.engine.features import Features, fast_network, last_layer
from train.evaluate import main as evaluate_main
from train.method.models import Classifier, check_fit, create_model, training_mode
from train.runs.log import LOG, SUMMARY


@pytest.fixture(autouse=True)
def few_penalties(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of two solutions: a fit takes a second where other programs are at work."""
    monkeypatch.setattr(train.engine.probe, "PENALTIES", (1.0, 0.1))


ONLY = {"head": "only", "finetune_from": "start", "epochs": 2, "sampling": "natural"}


@pytest.mark.usefixtures("start")
def test_only_the_last_layer_changes_and_evaluate_repeats_the_row(
    train_tiny: Any, tmp_path: Path, finished_run: Path, command_line: Any
) -> None:
    summary = train_tiny(tmp_path / "run", **ONLY)
    before, after = (
        load_checkpoint(each / BEST).model for each in (finished_run, tmp_path / "run")
    )
    changed = {name for name, each in before.items() if not torch.equal(each, after[name])}
    assert changed == {"8.weight", "8.bias"}
    lines = (tmp_path / "run" / LOG).read_text().splitlines()
    assert any(line.endswith("is best on val") for line in lines)
    assert any(line.startswith("starting from start: ") for line in lines)
    (row,) = (line for line in lines if line.startswith("test: "))
    ended = command_line(evaluate_main, tmp_path / "run")
    assert (ended.code, ended.out.splitlines()[0]) == (0, row)
    assert summary["epochs"] == summary["best_epoch"] == 2


@pytest.mark.usefixtures("start")
def test_the_head_does_better_than_the_one_it_replaces(train_tiny: Any, tmp_path: Path) -> None:
    """On the photographs that it was fitted to."""
    train_tiny(tmp_path / "run", **ONLY)
    (row,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(row)["train/loss"] < 1.0986  # of three classes that are told apart by chance


@pytest.mark.usefixtures("start")
def test_features_are_kept_by_pass_and_hold_every_photograph_once(
    train_tiny: Any, tmp_path: Path, tiny_shards: Path
) -> None:
    train_tiny(tmp_path / "run", **ONLY)
    kept = {each.name: np.load(each) for each in (tmp_path / "run" / "features").iterdir()}
    assert set(kept) == {"train-1.npz", "train-2.npz", "val.npz"}
    first, second = kept["train-1.npz"], kept["train-2.npz"]
    assert len(np.unique(first["ids"])) == len(first["ids"])
    assert sorted(first["ids"]) == sorted(second["ids"])
    # The second pass is augmented.
    orders = [np.argsort(each["ids"]) for each in (first, second)]
    assert not np.allclose(first["features"][orders[0]], second["features"][orders[1]])


@pytest.mark.usefixtures("start")
def test_a_stopped_probe_goes_on_with_the_passes_that_are_complete(
    train_tiny: Any, tmp_path: Path, stop_after: Any, resume: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_tiny(tmp_path / "whole", **ONLY)
    stop_after(7)  # in the second pass: each has five batches
    with pytest.raises(Interrupted, match="the passes that are complete are kept, go on with: "):
        train_tiny(tmp_path / "run", **ONLY)
    extracted = []
    extract = train.engine.probe.extract

    def counting(*args: Any) -> Any:
        extracted.append(args[4])
        return extract(*args)

    monkeypatch.setattr(train.engine.probe, "extract", counting)
    done = resume(tmp_path / "run")
    assert extracted == ["train-2", "val"]
    assert done["test"] == whole["test"]


DAMAGES = {
    "fewer features": lambda kept: {"features": kept["features"][:3]},
    "fewer images": lambda kept: {name: each[:3] for name, each in kept.items()},
    "narrower": lambda kept: {"features": kept["features"][:, :3]},
    "not finite": lambda kept: {"features": kept["features"] * np.nan},
    "no floats": lambda kept: {"features": kept["features"].astype(int)},
    "ids beyond the split": lambda kept: {"ids": kept["ids"] + 1000},
    "negative ids": lambda kept: {"ids": kept["ids"] - 1000},
    "ids of other images": lambda kept: {"ids": kept["ids"][::-1].copy()},
    "labels that are no class": lambda kept: {"labels": kept["labels"] + 3},
}


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize("damage", ["cut short", "empty", *DAMAGES])
def test_a_damaged_file_of_features_is_named_and_made_again(
    damage: str, train_tiny: Any, tmp_path: Path, stop_after: Any, resume: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    stop_after(7)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run", **ONLY)
    file = tmp_path / "run" / "features" / "train-1.npz"
    content, kept = file.read_bytes(), dict(np.load(file))
    if damage in DAMAGES:
        np.savez(file, **kept | DAMAGES[damage](kept))
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "cut short" else b"")
    resume(tmp_path / "run")
    said = capsys.readouterr().out
    (line,) = [each for each in said.splitlines() if "is damaged (" in each]
    assert line.startswith(str(file))
    assert line.endswith("so this pass is made again")
    again = np.load(file)
    for name, each in kept.items():
        np.testing.assert_allclose(again[name], each, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize(
    "fields", [{"fold": (0, 3)}, {"head": "fitted", "overfit_batches": 2, "epochs": 1}]
)
def test_whole_files_are_taken_for_whole_where_val_is_a_part_of_train(
    fields: dict[str, Any], train_tiny: Any, tmp_path: Path, resume: Any,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    class Killed(Exception):
        pass

    def killed(*args: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train.engine.probe, "best_head", killed)
        with pytest.raises(Killed):
            train_tiny(tmp_path / "run", **ONLY | fields)
    assert (tmp_path / "run" / "features" / "val.npz").exists()
    resume(tmp_path / "run")
    assert "is damaged" not in capsys.readouterr().out


@pytest.mark.usefixtures("start")
def test_a_split_that_is_smaller_than_a_batch_has_features_too(
    train_tiny: Any, tmp_path: Path
) -> None:
    train_tiny(tmp_path / "run", **ONLY, batch_size=1000)
    kept = np.load(tmp_path / "run" / "features" / "train-2.npz")
    assert len(np.unique(kept["ids"])) == len(kept["ids"])


def test_a_batch_of_one_image_is_refused_for_training_alone(make_config: Any) -> None:
    model = create_model("resnet18", 3, (0.5,) * 3, (0.5,) * 3)
    fields = {"arch": "resnet18", "image_size": 32, "batch_size": 4, "weights": "imagenet"}
    with pytest.raises(UserError, match="holds one image, on which resnet18 cannot train"):
        check_fit(model, make_config(**fields), 9)
    check_fit(model, make_config(head="only", **fields), 9)


@pytest.mark.usefixtures("start")
def test_features_that_are_not_finite_end_the_run_in_one_line_and_are_not_kept(
    train_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_network = train.engine.probe.fast_network

    def overflowing(*args: Any) -> Any:
        network, how = fast_network(*args)
        return lambda images: network(images) / 0, how

    monkeypatch.setattr(train.engine.probe, "fast_network", overflowing)
    with pytest.raises(UserError, match=r"^features are not finite: the weights of start are of"):
        train_tiny(tmp_path / "run", **ONLY)
    assert not list((tmp_path / "run").glob("features/*"))


def test_a_negative_variance_in_the_weights_is_one_line(
    train_tiny: Any, tmp_path: Path, finished_run: Path
) -> None:
    spoiled = load_content(finished_run / BEST)
    for name, each in spoiled["model"].items():
        if name.endswith("running_var"):
            each.fill_(-1.0)
    (tmp_path / "spoiled").mkdir()
    torch.save({"hyphae_checkpoint": 1, **spoiled}, tmp_path / "spoiled" / BEST)
    with pytest.raises(UserError, match=r"^features are not finite: the weights of spoiled are"):
        train_tiny(tmp_path / "run", **ONLY | {"finetune_from": "spoiled"})
    assert not list((tmp_path / "run").glob("features/*"))


@pytest.mark.usefixtures("start")
def test_a_fitted_head_is_where_training_of_all_layers_begins(
    train_tiny: Any, tmp_path: Path, finished_run: Path
) -> None:
    fields = ONLY | {"head": "fitted", "backbone_lr": 0.1, "epochs": 1}
    train_tiny(tmp_path / "run", **fields)
    before, after = (
        load_checkpoint(each / BEST).model for each in (finished_run, tmp_path / "run")
    )
    assert all(not torch.equal(before[name], after[name]) for name in ("0.weight", "8.weight"))
    groups = torch.load(tmp_path / "run" / LAST, weights_only=True)["optimizer"]["param_groups"]
    assert [group["lr_share"] for group in groups] == [1.0, 0.1]
    assert groups[1]["lr"] == pytest.approx(0.1 * groups[0]["lr"])
    assert [len(group["params"]) for group in groups] == [2, 5]


@pytest.mark.usefixtures("start")
def test_frozen_norms_keep_their_statistics_while_all_weights_train(
    train_tiny: Any, tmp_path: Path, finished_run: Path
) -> None:
    fields = ONLY | {"head": "fitted", "epochs": 1, "freeze_norm": True}
    train_tiny(tmp_path / "run", **fields)
    before, after = (
        load_checkpoint(each).model for each in (finished_run / BEST, tmp_path / "run" / LAST)
    )
    same = {name for name, each in before.items() if torch.equal(each, after[name])}
    assert same == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_with_frozen_norms_training_sees_the_features_of_evaluation(model: Classifier) -> None:
    images = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)
    at_evaluation = model(images)
    for each in model.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0.0
    training_mode(model, freeze_norm=True)
    torch.testing.assert_close(model(images), at_evaluation)
    training_mode(model, freeze_norm=False)
    assert not torch.allclose(model(images), at_evaluation)


def test_statistics_of_a_random_network_cannot_be_frozen(make_config: Any) -> None:
    with pytest.raises(ValueError, match="freeze_norm needs weights or finetune_from: a random"):
        make_config(freeze_norm=True)


@pytest.fixture
def model(make_config: Any) -> Classifier:
    torch.manual_seed(4)
    config = make_config()
    model = create_model("tf_efficientnet_lite0", 3, config.mean, config.std)
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.uniform_(each.running_mean, -0.2, 0.2)
            nn.init.uniform_(each.running_var, 0.5, 2)
    return model.eval().to(memory_format=torch.channels_last)  # as a run has it


@torch.inference_mode()
def test_features_are_what_the_last_layer_sees(
    model: Classifier, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    seen: list[torch.Tensor] = []
    last_layer(model.backbone, 3).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    model(images)
    for precision, depthwise, name, tolerance in (
        ("fp32", True, "ONNX Runtime", 1e-4),
        ("fp32", False, "ONNX Runtime", 1e-4),
        ("bf16", True, "ONNX Runtime", 1e-4),  # faster, and exact besides
        ("bf16", False, "torch, bf16", 0.05),
    ):
        monkeypatch.setattr(
            train.engine.features, "has_depthwise", lambda _, answer=depthwise: answer
        )
        network, how = fast_network(model, 3, 64, resolve(make_config(precision=precision)))
        assert how == name
        torch.testing.assert_close(network(images), seen[0], rtol=tolerance, atol=tolerance)
    assert len(seen) == 1  # the model still has its last layer, the copies have none


@pytest.mark.parametrize(
    ("arch", "expected"),
    [("tf_efficientnet_lite0", True), ("mobilenet_v3_small", True), ("resnet18", False),
     ("resnext50_32x4d", False)],
)  # fmt: skip
def test_depthwise_convolutions_are_those_of_one_channel_each(arch: str, expected: bool) -> None:
    assert (
        train.engine.features.has_depthwise(create_model(arch, 3, (0, 0, 0), (1, 1, 1))) == expected
    )


def test_where_onnx_runtime_fails_torch_does_the_work(
    model: Classifier, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operation\nand more")

    monkeypatch.setattr(torch.onnx, "export", cannot)
    network, how = fast_network(model, 3, 64, resolve(make_config(precision="fp32")))
    assert how == "torch, fp32 (ONNX Runtime cannot: no such operation)"
    assert isinstance(network, Features)


def test_a_network_without_a_linear_last_layer_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"the last layer of SqueezeNet \(classifier.1\) is no linear"
    ):
        last_layer(create_model("squeezenet1_0", 3, (0, 0, 0), (1, 1, 1)).backbone, 3)


def test_a_head_for_random_features_is_refused(make_config: Any) -> None:
    with pytest.raises(ValueError, match="head only needs weights or finetune_from"):
        make_config(head="only")


def test_summary_names_the_recipe_and_the_samples(
    train_tiny: Any, tmp_path: Path, start: Path
) -> None:
    train_tiny(tmp_path / "run", **ONLY)
    summary = json.loads((tmp_path / "run" / SUMMARY).read_text())
    assert summary["samples_seen"] > 0
