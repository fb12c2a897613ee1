"""Recipes: named configurations that a run starts from; any field can be overridden.

The docstring of a recipe says what it is for, its command and its cost; ``--list-recipes`` prints it.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from textwrap import indent

from shards.errors import UserError, unknown_name
from train.config import TrainConfig

__all__ = ["RECIPES", "TrainConfig", "create_recipe"]


def baseline() -> TrainConfig:
    """What the published table used: the course's own recipe.

    ``python -m train --arch resnet101 --recipe baseline``: 20 epochs of the balanced CSV at 384 px,
    AdamW, cosine per epoch without warm-up, published test mIoU 75.2 after 16 h 43 min on one
    48 GB GPU. README.md lists where this differs from the original.
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


RECIPES = {"baseline": baseline, "mini": mini, "small-gpu": small_gpu}


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
