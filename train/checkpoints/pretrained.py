"""What a run starts from: ImageNet weights, a file of weights, or another run's checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import torch
import torchvision
from torch import nn

from shards.errors import UserError
from train.checkpoints.checkpoint import Checkpoint, checkpoint_file
from train.checkpoints.course import load_trained
from train.checkpoints.weights import (
    PACKAGED,
    Loaded,
    Weights,
    load_packaged,
    load_weights,
    read_weights,
)
from train.config.config import TrainConfig
from train.config.recipes import PACKAGED_MEAN, PACKAGED_STD, create_recipe
from train.method.models import TIMM, is_timm

IMAGENET = "imagenet"
"""``weights``: the architecture's own ImageNet weights, of a package or of torchvision."""

Colours = tuple[float, float, float]


def with_start(config: TrainConfig) -> TrainConfig:
    """The configuration with what its starting weights decide.

    That is the normalisation, and of a checkpoint the architecture. A mean or deviation that is not the recipe's own stays: somebody gave it.

    Raises:
        UserError: There is no such checkpoint.
    """
    if config.finetune_from is not None:
        started = _trained(config.finetune_from)
        config = replace(config, arch=started.arch)
        mean, std = started.mean, started.std
    elif config.weights is not None:
        mean, std = imagenet_colours(config.arch)
    else:
        return config
    recipe = create_recipe(config.recipe)
    if (config.mean, config.std) == (recipe.mean, recipe.std):
        config = replace(config, mean=mean, std=std)
    return config


def load_start(backbone: nn.Module, config: TrainConfig, num_classes: int) -> str | None:
    """Fill a network with the weights that its run starts from; returns the line that says so.

    Raises:
        UserError: They are not to be had, or do not fit; the message says what to do.
    """
    if config.finetune_from is not None:
        where, started = config.finetune_from, _trained(config.finetune_from)
        loaded = load_weights(
            backbone, started.weights, num_classes, where, is_linear=started.is_linear
        )
    elif config.weights is None:
        return None
    elif config.weights != IMAGENET:
        where = config.weights
        loaded = load_weights(backbone, read_weights(Path(where)), num_classes, where)
    elif is_timm(config.arch):
        where = f"ImageNet ({config.arch})"
        loaded = load_packaged(backbone, config.arch, num_classes)
    else:
        where = f"ImageNet ({config.arch})"
        loaded = _load_torchvision(backbone, config.arch, num_classes)
    return f"starting from {where}: {loaded}"


def imagenet_colours(arch: str) -> tuple[Colours, Colours]:
    """Mean and deviation of the RGB channels that ImageNet weights of an architecture expect."""
    name = arch.removeprefix(TIMM)
    if name in PACKAGED:
        return PACKAGED_MEAN, PACKAGED_STD
    if is_timm(arch):
        import timm

        found = timm.get_pretrained_cfg(name)
        return (
            (PACKAGED_MEAN, PACKAGED_STD)
            if found is None
            else (_three(found.mean), _three(found.std))
        )
    transforms = torchvision.models.get_model_weights(arch).DEFAULT.transforms()
    return _three(transforms.mean), _three(transforms.std)


def _three(values: Sequence[float]) -> Colours:
    red, green, blue = values
    return red, green, blue


def _load_torchvision(backbone: nn.Module, arch: str, num_classes: int) -> Loaded:
    """Weights as torchvision downloads them; its folder is looked into first."""
    url: str = torchvision.models.get_model_weights(arch).DEFAULT.url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            digits = file.stem.rpartition("-")[2]
            torch.hub.download_url_to_file(url, str(file), hash_prefix=digits, progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"cannot download the ImageNet weights of {arch} ({error}): put {url} at {file}, or "
                "give another file of weights with --weights FILE; without a network, --arch "
                f"{next(iter(PACKAGED))} has its weights installed"
            ) from None
    return load_weights(backbone, read_weights(file), num_classes, str(file))


class _Trained(NamedTuple):
    """What a run takes from the checkpoint that it starts from."""

    arch: str
    mean: Colours
    std: Colours
    weights: Weights
    is_linear: bool
    """Whether its last layer is a linear one."""


def _trained(path: str) -> _Trained:
    saved = load_trained(checkpoint_file(Path(path)))
    if isinstance(saved, Checkpoint):
        config = saved.config
        is_linear = config.hierarchy_loss != "prototypes"
        return _Trained(config.arch, config.mean, config.std, saved.model, is_linear)
    baseline = create_recipe("baseline")
    return _Trained(saved.arch, baseline.mean, baseline.std, saved.weights, is_linear=True)
