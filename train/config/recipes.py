"""Recipes: named configurations that a run starts from; any field can be overridden.

The docstring of a recipe says what it is for, its command and its cost; ``--list-recipes`` prints it.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from textwrap import indent

from loaders.augment import AugmentConfig
from shards.errors import UserError, unknown_name
from train.config.config import TrainConfig

__all__ = ["DEFAULT_RECIPE", "RECIPES", "TrainConfig", "create_recipe"]

MILD = AugmentConfig(crop_scale=(0.35, 1.0), brightness=0.2, contrast=0.2, saturation=0.2, hue=0.0)
"""Augmentation of short runs."""
PACKAGED_MEAN = (127 / 255, 127 / 255, 127 / 255)
PACKAGED_STD = (128 / 255, 128 / 255, 128 / 255)
"""Of the RGB channels, as the weights of tf_efficientnet_lite0 expect them."""


def baseline() -> TrainConfig:
    """What the published table used: the course's own recipe.

    ``python -m train --arch resnet101 --recipe baseline``: 20 epochs of the balanced CSV at 384 px,
    AdamW, cosine per epoch without warm-up, published test mIoU 75.2 after 16 h 43 min on one
    48 GB GPU. docs/from-baseline.md lists where this differs from the original.
    """
    return TrainConfig(recipe="baseline", amp="fp16")


def mini() -> TrainConfig:
    """The baseline on at most 408 CSV rows of each class: a tenth of the published epoch.

    ``python -m train --arch resnet18 --recipe mini``: to try something before a full run. An epoch has
    68,952 images of the published set in place of 689,520; its scores are not comparable.
    """
    return replace(baseline(), recipe="mini", mini=408)


def small_gpu() -> TrainConfig:
    """The baseline for a GPU with little memory: the same batches of 128, 16 images at a time.

    ``python -m train --arch resnet101 --recipe small-gpu``: the gradients of eight micro-batches add up
    to the same step, but batch normalisation sees 16 images; it computes what the baseline computes.
    ``--micro-batch 8`` needs about half the memory again.
    """
    return replace(baseline(), recipe="small-gpu", micro_batch=16)


def fast() -> TrainConfig:
    """The baseline's task for a fraction of what it computes: small images, mild crops, many steps.

    ``python -m train --arch resnet101 --recipe fast``, the default: 16 passes over images that grow from
    three eighths to three quarters of the size at evaluation; with another ``--image-size`` they are in
    proportion. 0.28 of the baseline's FLOPs. docs/recipes.md has measured scores, minutes, and what lost.
    """
    return TrainConfig(
        recipe="fast",
        epochs=16,
        batch_size=32,
        lr=2e-3,
        schedule="cosine",
        warmup=0.1,
        weight_decay=0.05,
        decay_norm_and_bias=False,
        label_smoothing=0.1,
        train_size=288,
        start_size=144,
        augment=MILD,
        resample="linear",
    )


def probe() -> TrainConfig:
    """A good model in minutes, without a GPU: a logistic regression on ImageNet features.

    ``python -m train --recipe probe``: the network stays as ImageNet made it, so each photograph passes
    through it once, and never backwards. docs/recipes.md has measured scores and minutes.
    """
    return TrainConfig(
        recipe="probe",
        arch="tf_efficientnet_lite0",
        weights="imagenet",
        head="only",
        epochs=1,
        batch_size=32,
        image_size=224,
        sampling="natural",
        augment=MILD,
        resample="linear",
        mean=PACKAGED_MEAN,
        std=PACKAGED_STD,
    )


def finetune() -> TrainConfig:
    """From ImageNet weights: the last layer first, then all layers, the earlier ones slowly.

    ``python -m train --recipe finetune``, or ``--finetune-from CKPT`` to start from another run or a
    checkpoint of the course. Gently, so as not to lose what the fitted head has: low rates that rise
    at first, and batch normalisation as at evaluation. docs/recipes.md has measured scores and minutes.
    """
    return replace(
        probe(),
        recipe="finetune",
        head="fitted",
        epochs=4,
        lr=2e-4,
        backbone_lr=0.5,
        schedule="cosine",
        warmup=0.2,
        freeze_norm=True,
        weight_decay=1e-2,
        decay_norm_and_bias=False,
        label_smoothing=0.1,
    )


def strong() -> TrainConfig:
    """The best mIoU for those with time: from ImageNet weights, all layers, mixed images, averaged weights.

    ``python -m train --recipe strong``: ``finetune`` for twice as long at five times the rate, which the
    moving average of the weights makes safe. It needs all of its passes; in fewer, ``probe`` is better.
    Val is looked at once, at the end, as which epoch is best on few photographs is luck. docs/recipes.md
    has measured scores and minutes.
    """
    return replace(
        finetune(),
        recipe="strong",
        epochs=8,
        eval_every=8.0,
        lr=1e-3,
        ema=0.99,
        augment=replace(MILD, cutmix_prob=0.5),
    )


DEFAULT_RECIPE = "fast"
"""Of a command that names none."""
RECIPES = {
    "baseline": baseline,
    "fast": fast,
    "mini": mini,
    "small-gpu": small_gpu,
    "probe": probe,
    "finetune": finetune,
    "strong": strong,
}


def create_recipe(name: str) -> TrainConfig:
    """The configuration of a recipe.

    Raises:
        UserError: No recipe of that name.
    """
    if name not in RECIPES:
        raise UserError(unknown_name("recipe", name, RECIPES))
    return RECIPES[name]()


def describe_recipes() -> str:
    """What each recipe is for, its command and its cost."""
    texts = (
        f"{name}\n{indent(inspect.getdoc(each) or '', '  ')}" for name, each in RECIPES.items()
    )
    return "\n\n".join(texts).replace("``", "")
