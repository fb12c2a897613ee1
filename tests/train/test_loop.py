"""The loop is the plain PyTorch loop, and stops when it should."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2

import train.engine.loop
import train.method.objective
from loaders.augment import AugmentConfig
from shards.errors import JobError
from train.checkpoints.checkpoint import BEST, LAST, load_content
from train.config.resolve import resolve
from train.method.batches import train_loader
from train.method.schedule import cosine_per_epoch
from train.runs.log import CONFIG, LOG, METRICS, SUMMARY

MetricsOf = Callable[[Path], list[dict[str, Any]]]
ROWS, TEST_IMAGES = 36, 6  # of the tiny shards
STEPS = 8  # batches of five, the last of one image
RESNET = {"arch": "resnet18", "epochs": 1, "batch_size": 8}  # the last batch has four images


Loop = tuple[dict[str, torch.Tensor], list[tuple[float, int]]]


def plain_loop(config: Any, shards: Path, *, like_ours: bool, steps: int | None = None) -> Loop:
    """One epoch as a user would write it; returns the weights, and loss and size of each batch.

    ``like_ours`` takes the three shortcuts that change roundings, not mathematics: the
    normalisation as one product and sum, channels_last, and the fused optimizer.
    """
    torch.manual_seed(config.seed)
    model = torchvision.models.resnet18(num_classes=3)
    if like_ours:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=like_ours or None
    )
    textbook = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(config.mean, config.std)]
    )
    scale = 1 / (255 * torch.tensor(config.std))
    shift = -torch.tensor(config.mean) / torch.tensor(config.std)
    losses = []
    with closing(train_loader(config, resolve(config), shards)) as loader:
        for batch in islice(loader.epoch(0), steps):
            if like_ours:
                images = batch.images.float() * scale.view(3, 1, 1) + shift.view(3, 1, 1)
            else:
                images = textbook(batch.images.contiguous())
            loss = cross_entropy(model(images), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append((loss.item(), len(batch.labels)))
    return model.state_dict(), losses


@pytest.fixture(scope="module")
def resnet_run(
    tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory, make_config: Any
) -> Path:
    """One epoch of resnet18 by the command's own path, its speed estimate included."""
    out = tmp_path_factory.mktemp("resnet") / "run"
    train.engine.run.start_run(make_config(**RESNET), tiny_shards, out)
    return out


@pytest.fixture(scope="module")
def plain_epoch(tiny_shards: Path, make_config: Any) -> Loop:
    """The same epoch by a plain loop that takes our shortcuts."""
    return plain_loop(make_config(**RESNET), tiny_shards, like_ours=True)


def test_an_epoch_equals_a_plain_pytorch_loop_to_the_last_bit(
    resnet_run: Path, plain_epoch: Loop, metrics_of: MetricsOf
) -> None:
    weights, losses = plain_epoch
    ours = load_content(resnet_run / LAST)["model"]
    assert list(ours) == list(weights)
    assert all(torch.equal(ours[name], weights[name]) for name in weights)
    assert [size for _, size in losses] == [8] * 4 + [4]
    weighed = sum(loss * size for loss, size in losses) / ROWS
    assert metrics_of(resnet_run)[0]["train/loss"] == pytest.approx(weighed, rel=1e-6)


def test_the_train_loss_weighs_the_short_last_batch_by_its_count(
    resnet_run: Path, plain_epoch: Loop, metrics_of: MetricsOf
) -> None:
    _, losses = plain_epoch
    each_alike = sum(loss for loss, _ in losses) / len(losses)
    reported = metrics_of(resnet_run)[0]["train/loss"]
    assert reported != pytest.approx(each_alike, rel=1e-3)


@pytest.fixture
def losses_of_steps(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The loss of each step of the runs to come, as the loop computes it."""
    losses: list[torch.Tensor] = []
    plain = train.method.objective.Objective.loss

    def noted(self: Any, logits: torch.Tensor, target: Any) -> torch.Tensor:
        losses.append(plain(self, logits, target))
        return losses[-1]

    monkeypatch.setattr(train.method.objective.Objective, "loss", noted)
    return losses


def textbook_losses(config: Any, shards: Path, *, like_ours: bool) -> list[float]:
    """All epochs of the baseline with torchvision's own modules in NCHW; the loss of each step.

    ``like_ours``: the optimizer's implementation and the normalisation's order of operations are ours.
    """
    torch.manual_seed(config.seed)
    dtype = torch.get_default_dtype()
    model = torchvision.models.resnet18(num_classes=3)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=like_ours
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=config.epochs, eta_min=config.min_lr
    )
    textbook = v2.Compose([v2.ToDtype(dtype, scale=True), v2.Normalize(config.mean, config.std)])
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    scale, shift = (each.view(3, 1, 1) for each in (1 / (255 * std), -mean / std))
    losses = []
    with closing(train_loader(config, resolve(config), shards)) as loader:
        for epoch in range(config.epochs):
            for batch in loader.epoch(epoch):
                images = batch.images.contiguous()
                images = images.to(dtype) * scale + shift if like_ours else textbook(images)
                loss = cross_entropy(model(images), batch.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            scheduler.step()
    return losses


@pytest.mark.slow
def test_fifty_steps_in_nchw_have_the_losses_of_a_plain_loop_to_the_last_bit(
    tiny_shards: Path, tmp_path: Path, make_config: Any, losses_of_steps: list[torch.Tensor]
) -> None:
    config = make_config(**RESNET | {"epochs": 10, "memory_format": "contiguous"})
    train.engine.run.start_run(config, tiny_shards, tmp_path / "run")
    assert len(losses_of_steps) == 50
    expected = textbook_losses(config, tiny_shards, like_ours=True)
    assert [each.item() for each in losses_of_steps] == expected


@pytest.mark.slow
def test_in_64_bits_all_our_shortcuts_together_change_nothing(
    tiny_shards: Path, tmp_path: Path, make_config: Any, losses_of_steps: list[torch.Tensor]
) -> None:
    config = make_config(**RESNET | {"epochs": 4, "memory_format": "channels_last"})
    torch.set_default_dtype(torch.float64)
    try:
        train.engine.run.start_run(config, tiny_shards, tmp_path / "run")
        expected = textbook_losses(config, tiny_shards, like_ours=False)
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(expected) == 20
    assert losses_of_steps[0].dtype == torch.float64
    assert [each.item() for each in losses_of_steps] == pytest.approx(expected, abs=1e-6, rel=0)


class CountReads(TorchDispatchMode):
    """Counts the operations that wait for a device: they hand a tensor's value to Python."""

    WAITING = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.equal.default,
    )

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += func in self.WAITING
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_no_step_waits_for_the_device_but_those_whose_loss_is_read(
    tmp_path: Path, train_tiny: Any, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    reads, plain = [], train.engine.loop.train_stretch

    def counted(session: Any) -> None:
        with CountReads() as counting:
            plain(session)
        reads.append(counting.reads)

    monkeypatch.setattr(train.engine.loop, "train_stretch", counted)
    mixed = AugmentConfig(mixup_prob=0.5, cutmix_prob=0.5)
    common = {
        "optimizer": optimizer, "epochs": 1, "clip_norm": 1.0, "decay_norm_and_bias": False,
        "augment": mixed, "schedule": "cosine", "warmup": 0.25, "label_smoothing": 0.1,
        "ema": 0.9, "start_size": 16, "micro_batch": 2,
    }  # fmt: skip
    train_tiny(tmp_path / "eight steps", **common)
    monkeypatch.setattr(train.engine.loop, "READ_STEPS", 2)
    train_tiny(tmp_path / "read every other step", **common)
    of_a_reading = 2  # the sum of the losses, and the last one for the curve
    assert reads == [of_a_reading * 1, of_a_reading * STEPS // 2]


def test_a_textbook_loop_differs_by_roundings_alone(
    tiny_shards: Path, make_config: Any, plain_epoch: Loop
) -> None:
    # AdamW divides by the gradient's size, so the roundings of tiny gradients grow with each step:
    # the first loss shows that both compute the same thing, the next that they do the same step.
    _, ours = plain_epoch
    _, textbook = plain_loop(make_config(**RESNET), tiny_shards, like_ours=False, steps=2)
    assert ours[0][0] == pytest.approx(textbook[0][0], rel=1e-5)
    assert ours[1][0] == pytest.approx(textbook[1][0], rel=1e-2)


def test_the_loss_falls_to_nothing_on_two_batches(
    tmp_path: Path, train_tiny: Any, no_augment: Any, metrics_of: MetricsOf
) -> None:
    summary = train_tiny(
        tmp_path / "run", mini=3, batch_size=5, epochs=40, lr=1e-2, augment=no_augment
    )
    losses = [each["train/loss"] for each in metrics_of(tmp_path / "run")]
    assert summary["samples_seen"] == 40 * 9
    assert sum(losses[-5:]) / 5 < losses[0] / 3


def test_the_rate_of_each_epoch_is_the_schedules(finished_run: Path, metrics_of: MetricsOf) -> None:
    rates = [each["train/lr"] for each in metrics_of(finished_run)]
    assert rates == [cosine_per_epoch(epoch, 3, 1e-3, 1e-6) for epoch in range(3)]


def test_a_run_folder_holds_all_that_was_promised(
    finished_run: Path, metrics_of: MetricsOf
) -> None:
    names = {each.name for each in finished_run.iterdir()}
    assert {BEST, LAST, CONFIG, LOG, METRICS, SUMMARY} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if name.endswith(".tmp")]
    summary = json.loads((finished_run / SUMMARY).read_text())
    assert set(summary["test"]) == {"oa", "mf1", "miou"}
    assert all(0 <= value <= 1 for value in summary["test"].values())
    assert summary["samples_seen"] == 3 * ROWS
    assert (summary["epochs"], summary["test_images"]) == (3, TEST_IMAGES)
    assert summary["images_per_s"] == pytest.approx(3 * ROWS / summary["seconds"])
    metrics = metrics_of(finished_run)
    assert [each["epoch"] for each in metrics] == [1, 2, 3]
    assert [each["samples_seen"] for each in metrics] == [ROWS, 2 * ROWS, 3 * ROWS]
    assert summary["val_miou"] == max(each["val/miou"] for each in metrics)
    config = json.loads((finished_run / CONFIG).read_text())
    assert config["config"]["arch"] == summary["arch"]
    assert {"resolved", "versions", "shards", "order_hash", "class_names"} <= set(config)


def test_an_epoch_is_one_line_with_all_that_was_promised(finished_run: Path) -> None:
    lines = (finished_run / LOG).read_text().splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 3
    for line in epochs:
        for part in ("train loss", "val loss", "mIoU", "mF1", "OA", "img/s", "data wait", "left"):
            assert part in line


def test_patience_ends_a_run_and_an_equal_score_is_not_better(
    tmp_path: Path, train_tiny: Any, val_hits: Any
) -> None:
    val_hits(2, 5, 4, 5, 3, 9)
    summary = train_tiny(tmp_path / "run", epochs=6, patience=3)
    assert (summary["best_epoch"], summary["epochs"]) == (2, 5)
    assert summary["val_miou"] == pytest.approx((5 / 10 + 10 / 15) / 2)  # five of ten hit
    assert load_content(tmp_path / "run" / BEST)["progress"]["epoch"] == 2
    assert load_content(tmp_path / "run" / LAST)["progress"]["epoch"] == 5


def test_patience_counts_from_the_best_epoch(
    tmp_path: Path, train_tiny: Any, val_hits: Any
) -> None:
    val_hits(2, 1, 3, 2, 4, 3)
    summary = train_tiny(tmp_path / "run", epochs=6, patience=2)
    assert (summary["best_epoch"], summary["epochs"]) == (5, 6)


def test_the_best_checkpoint_has_the_weights_of_the_best_epoch(
    tmp_path: Path, train_tiny: Any, val_hits: Any
) -> None:
    val_hits(5, 1)
    train_tiny(tmp_path / "two", epochs=2)
    best, last = (load_content(tmp_path / "two" / name)["model"] for name in (BEST, LAST))
    assert any(not torch.equal(best[name], last[name]) for name in best)
    val_hits(1, 5)
    train_tiny(tmp_path / "other", epochs=2)
    best, last = (load_content(tmp_path / "other" / name)["model"] for name in (BEST, LAST))
    assert all(torch.equal(best[name], last[name]) for name in best)


def test_a_rate_far_too_high_fails_in_one_line_with_the_range_of_steps(
    tmp_path: Path, train_command: Any
) -> None:
    folder = tmp_path / "run"
    ended = train_command("--lr", 1e30, "--out", folder)
    assert ended.code == 1
    assert re.fullmatch(
        rf"error: the loss became (nan|inf) in epoch 1 between steps 1 and {STEPS}; try a lower "
        rf"--lr\. The checkpoint before that is kept: {folder / LAST}\n",
        ended.err,
    )
    assert (folder / LOG).read_text().endswith(ended.err.removeprefix("error: "))
    assert load_content(folder / LAST)["progress"]["samples_seen"] == 0
    assert not (folder / SUMMARY).exists()


@pytest.mark.parametrize(
    ("bad_step", "first", "last"), [(1, 1, 3), (3, 1, 3), (4, 4, 6), (7, 7, 8), (8, 7, 8)]
)
def test_a_loss_that_is_no_number_is_found_at_the_next_reading(
    tmp_path: Path,
    train_tiny: Any,
    monkeypatch: pytest.MonkeyPatch,
    bad_step: int,
    first: int,
    last: int,
) -> None:
    calls = 0

    def spoiled(*args: Any, **options: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = cross_entropy(*args, **options)
        return loss * math.nan if calls == bad_step else loss

    monkeypatch.setattr(train.engine.loop, "READ_STEPS", 3)
    monkeypatch.setattr(train.method.objective, "cross_entropy", spoiled)
    with pytest.raises(JobError, match=f"in epoch 1 between steps {first} and {last};"):
        train_tiny(tmp_path / "run")


def test_a_loss_that_is_no_number_leaves_the_last_checkpoint(
    tmp_path: Path, train_tiny: Any, monkeypatch: pytest.MonkeyPatch, resume: Any
) -> None:
    rates = {0: 1e-3, 1: 1e30, 2: 1e-3}
    monkeypatch.setattr(train.engine.loop, "rate_at", lambda _, progress: rates[int(3 * progress)])
    kept = tmp_path / "run" / LAST
    with pytest.raises(JobError) as failed:
        train_tiny(tmp_path / "run")
    assert "in epoch 2 between" in failed.value.format_message()
    assert f"The checkpoint before that is kept: {kept}" in failed.value.format_message()
    content = load_content(kept)
    assert content["progress"]["epoch"] == 1
    assert all(each.isfinite().all() for each in content["model"].values())
    rates[1] = 1e-3
    assert resume(tmp_path / "run")["epochs"] == 3


def test_weights_that_the_last_step_of_an_epoch_spoiled_are_not_saved_as_good(
    tmp_path: Path, train_tiny: Any, metrics_of: MetricsOf
) -> None:
    # One step an epoch: its loss is finite, and only val sees what the step did to the weights.
    with pytest.raises(JobError, match="the loss became"):
        train_tiny(tmp_path / "run", lr=1e30, batch_size=ROWS, epochs=2)
    assert load_content(tmp_path / "run" / LAST)["progress"]["samples_seen"] == 0
    assert not (tmp_path / "run" / METRICS).exists()
