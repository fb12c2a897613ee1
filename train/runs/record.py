"""What a run records: the one place to add a metric or a picture.

Each function returns names and values for one moment of a run; ``train/runs/log.py`` carries them to
JSON lines, TensorBoard and W&B. A new entry in a dictionary is all that a new curve or picture
needs (``docs/logging.md``).
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from train.checkpoints.checkpoint import Progressed
from train.runs.figures import Picture, confusion_picture, image_grid
from train.scores.evaluation import Evaluation

GRID_IMAGES = 16
GIB = 1 << 30


def first_batch_pictures(
    images: torch.Tensor, labels: torch.Tensor, class_names: Sequence[str]
) -> dict[str, Picture]:
    """Before the first step, once in a run: what the model is about to see.

    Args:
        images: ``(B, 3, H, W)`` uint8, augmented.
        labels: ``(B,)`` int64.
        class_names: Of all classes.
    """
    shown = labels[:GRID_IMAGES].tolist()
    return {"train/images": image_grid(images[:GRID_IMAGES], [class_names[each] for each in shown])}


def step_values(loss: float, lr: float, image_size: int) -> dict[str, float]:
    """At the steps whose loss is read (``READ_STEPS`` apart): of that one batch."""
    return {"step/loss": loss, "step/lr": lr, "step/image_size": image_size}


def epoch_values(
    done: Progressed, val: Evaluation, seconds: Mapping[str, float], *, device: torch.device
) -> dict[str, float]:
    """After each evaluation.

    Args:
        done: Sums and clocks since the last evaluation, not yet set back.
        val: Its result.
        seconds: What the time since then went to (:func:`train.runs.timing.add_up`).
        device: Whose memory is reported.
    """
    return {
        "train/loss": done.loss_sum / done.images,
        "train/lr": done.lr,
        "train/image_size": done.image_size,
        "train/images_per_s": done.images / done.train_s,
        "train/data_wait": done.wait_s / done.train_s,
        "val/loss": val.loss,
        **{f"val/{name}": value for name, value in val.scores.as_dict().items()},
        "val/seconds": val.seconds,
        **{f"time/{name}_s": value for name, value in seconds.items()},
        **memory_values(device),
    }


def epoch_pictures(val: Evaluation, class_names: Sequence[str]) -> dict[str, Picture]:
    """After each evaluation."""
    return {"val/confusion": confusion_picture(val.confusion, class_names)}


def final_values(split: str, result: Evaluation, best_val_miou: float) -> dict[str, float]:
    """At the end of a run, beside its hyperparameters."""
    return {
        "best/val_miou": best_val_miou,
        f"best/{split}_loss": result.loss,
        **{f"best/{split}_{name}": value for name, value in result.scores.as_dict().items()},
    }


def final_pictures(
    split: str, result: Evaluation, class_names: Sequence[str]
) -> dict[str, Picture]:
    """At the end of a run: of its best epoch."""
    return {f"best/{split}_confusion": confusion_picture(result.confusion, class_names)}


def memory_values(device: torch.device) -> dict[str, float]:
    """The most that this process has had so far; what worker processes have is not in it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values = {"memory/host_gib": peak * (1 if sys.platform == "darwin" else 1024) / GIB}
    if device.type == "cuda":
        values["memory/device_gib"] = torch.cuda.max_memory_allocated(device) / GIB
    return values


def hyperparameters(config: dict[str, Any], resolved: dict[str, Any]) -> dict[str, Any]:
    """What stands beside the final values: the configuration, and what ``auto`` became."""
    return {**config, "resolved": resolved}
