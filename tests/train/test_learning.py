"""Networks of every kind that is promised learn two batches by heart, and are the same from their file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from train.checkpoints.checkpoint import BEST, LAST, load_content
from train.inference.full_evaluation import evaluate_in_full
from train.inference.trained import open_trained

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
LEARNT = 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "fields"),
    [
        *((each, {}) for each in RESNETS),
        ("convnext_tiny", {"lr": 3e-4, "clip_norm": 1.0}),
        ("tf_efficientnet_lite0", {}),
    ],
)
def test_two_batches_are_learnt_by_heart_and_the_file_evaluates_alike(
    tmp_path: Path,
    train_tiny: Any,
    tiny_shards: Path,
    metrics_of: Any,
    arch: str,
    fields: dict[str, float],
) -> None:
    run = tmp_path / "run"
    summary = train_tiny(
        run,
        **{
            "arch": arch, "overfit_batches": 2, "batch_size": 8, "image_size": 64, "epochs": 40,
            "eval_every": 20, "lr": 1e-3, "schedule": "cosine", "warmup": 0.1,
        }
        | fields,
    )  # fmt: skip
    assert metrics_of(run)[-1]["train/loss"] < LEARNT
    assert summary["trial"]
    result = evaluate_in_full(run / BEST, "val", str(tiny_shards), None, say_all=False)
    assert result.compared.result.images == 6
    weights = load_content(run / BEST)["model"]
    with open_trained(run / BEST, str(tiny_shards)) as trained:
        loaded = trained.network.backbone.state_dict()
    assert all(torch.equal(loaded[name].cpu(), each) for name, each in weights.items())
    assert load_content(run / LAST)["progress"]["samples_seen"] == 40 * 16
