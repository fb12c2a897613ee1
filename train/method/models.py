"""Architectures by the names of torchvision and timm, and the normalisation in front of them.

A plain name is torchvision's where torchvision has it, else timm's; ``timm:NAME`` is always timm's.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import nn

from shards.errors import UserError, unknown_name
from shards.machine import available_memory, human_bytes
from train.config.config import TrainConfig
from train.config.distributed import share_sizes, size
from train.config.resolution import training_sizes

TIMM = "timm:"
"""Before the name of an architecture: timm's, where torchvision has one of that name too."""
WITHOUT_AUX = {"googlenet": {"aux_logits": False, "init_weights": True},
               "inception_v3": {"aux_logits": False, "init_weights": True}}  # fmt: skip
"""Two architectures return extra heads in training unless told not to."""


DEPTH_OPTION = {True: "drop_path_rate", False: "stochastic_depth_prob"}
ZERO_OPTION = {True: "zero_init_last", False: "zero_init_residual"}
"""What timm (True) and torchvision (False) call them."""
LACKING = {
    True: (
        "stochastic depth (--stochastic-depth)",
        "convnext_tiny, efficientnet_b0, timm:resnet50",
    ),
    False: ("last norm to begin at 0 (--zero-init)", "resnet50, timm:resnet50"),
}
"""What an architecture may be without, and some that have it; True for stochastic depth."""
DEPTH_MODULES = ("StochasticDepth", "DropPath")
"""Of torchvision and of timm."""


class Classifier(nn.Module):
    """A backbone that takes bytes: normalisation is its first operation, fused by the compiler.

    Args:
        backbone: Maps ``(B, 3, H, W)`` floats to ``(B, K)`` logits.
        mean: Of each RGB channel, values in [0, 1].
        std: Of each RGB channel, values in [0, 1].
    """

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        scale = 1 / (255 * torch.tensor(std))
        shift = -torch.tensor(mean) / torch.tensor(std)
        # Not part of the checkpoint's weights: the configuration holds mean and std.
        self.register_buffer("scale", scale.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, 3, 1, 1), persistent=False)
        self.memory_format = torch.preserve_format
        """Of what the backbone gets; the loader's images are channels_last."""
        self.scale: torch.Tensor
        self.shift: torch.Tensor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` uint8 -> ``(B, K)`` logits."""
        floats = images.to(self.scale.dtype, memory_format=self.memory_format)
        logits: torch.Tensor = self.backbone(floats * self.scale + self.shift)
        return logits


def training_mode(network: nn.Module, *, freeze_norm: bool) -> None:
    """Let a network learn; with ``freeze_norm``, batch normalisation stays as at evaluation.

    It then neither uses nor changes the statistics of a batch: a head that was fitted to the features
    of evaluation sees the same ones in the first step.
    """
    network.train()
    if freeze_norm:
        for each in network.modules():
            if isinstance(each, nn.modules.batchnorm._BatchNorm):
                each.eval()


def _has_depth(backbone: nn.Module) -> bool:
    """Whether residual branches may be left out."""
    return any(type(each).__name__ in DEPTH_MODULES for each in backbone.modules())


def _begins_at_zero(backbone: nn.Module) -> bool:
    return any(
        each.ndim == 1 and name.endswith("weight") and not each.any()
        for name, each in backbone.named_parameters()
    )


def list_archs() -> list[str]:
    """Names of every torchvision classification model."""
    return list(torchvision.models.list_models(module=torchvision.models))


def list_timm_archs() -> list[str]:
    """Names of every timm model, as ``timm:NAME`` where torchvision has the plain name."""
    taken = set(list_archs())
    return [f"{TIMM}{name}" if name in taken else name for name in _timm().list_models()]


def create_model(
    arch: str,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    stochastic_depth: float | None = None,
    zero_init: bool = False,
) -> Classifier:
    """A randomly initialised model.

    Args:
        arch: Its name.
        num_classes: K.
        mean: As in :class:`Classifier`.
        std: As in :class:`Classifier`.
        stochastic_depth: Probability with which the last residual branch is left out in training;
            None for the architecture's own. Huang et al. (arXiv:1603.09382).
        zero_init: Whether the last norm of each residual branch begins with a scale of 0; False for
            the architecture's own way. Goyal et al. (arXiv:1706.02677), section 5.1.

    Raises:
        UserError: No such architecture (the message names the nearest), or it lacks what is asked.
    """
    check_arch(arch)
    of_timm = is_timm(arch)
    extra: dict[str, Any] = {}
    if stochastic_depth is not None:
        extra[DEPTH_OPTION[of_timm]] = stochastic_depth
    if zero_init:
        extra[ZERO_OPTION[of_timm]] = True
    lacking = None
    try:
        backbone = _build(arch, num_classes, extra)
    except TypeError as error:
        lacking = next((each for each in extra if f"'{each}'" in str(error)), None)
        if lacking is None:
            raise
    else:  # some builders take the word and do nothing
        if stochastic_depth and not _has_depth(backbone):
            lacking = DEPTH_OPTION[of_timm]
        elif zero_init and not _begins_at_zero(backbone):
            lacking = ZERO_OPTION[of_timm]
    if lacking is not None:
        what, others = LACKING[lacking in DEPTH_OPTION.values()]
        raise UserError(
            f"{arch} of {'timm' if of_timm else 'torchvision'} has no {what}; drop it, or choose another "
            f"--arch, such as {others}"
        )
    return Classifier(backbone, mean, std)


def _build(arch: str, num_classes: int, extra: dict[str, Any]) -> nn.Module:
    if is_timm(arch):
        name = arch.removeprefix(TIMM)
        of_timm: nn.Module = _timm().create_model(
            name, pretrained=False, num_classes=num_classes, **extra
        )
        return of_timm
    options = WITHOUT_AUX.get(arch, {}) | extra
    of_torchvision: nn.Module = torchvision.models.get_model(
        arch, weights=None, num_classes=num_classes, **options
    )
    return of_torchvision


def is_timm(arch: str) -> bool:
    """Whether a known name is one of timm's."""
    return arch not in list_archs()


def check_arch(arch: str) -> None:
    """Raise :class:`UserError` for a name that neither torchvision nor timm has."""
    if not is_timm(arch) or arch.removeprefix(TIMM) in _timm().list_models():
        return
    plain, of_timm = list_archs(), list_timm_archs()
    known = [*plain, *of_timm]
    if arch.startswith(TIMM):
        known = [f"{TIMM}{name}" for name in _timm().list_models()]
    hint = f"(`python -m train --list-archs` shows all {len(plain) + len(of_timm):,})"
    raise UserError(unknown_name("arch", arch, known, hint))


def classifier_layer(backbone: nn.Module, num_classes: int) -> str:
    """The name of the layer that makes the logits: the last of so many outputs.

    Raises:
        UserError: There is none.
    """
    found = ""
    for name, module in backbone.named_modules():
        outputs = getattr(module, "out_features", getattr(module, "out_channels", None))
        if isinstance(module, nn.Linear | nn.Conv2d) and outputs == num_classes:
            found = name
    if not found:
        raise UserError(
            f"{type(backbone).__name__} has no last layer of {num_classes} outputs; choose another "
            "--arch"
        )
    return found


def _timm() -> ModuleType:
    """Imported where it is needed: it takes as long as torch."""
    import timm

    return timm


def check_batch(config: TrainConfig) -> None:
    """Raise :class:`UserError` where a single batch of images exceeds the memory that is free.

    A run needs several times as much; this only keeps a slip of the keyboard from the machine.
    """
    side = max(config.image_size, *training_sizes(config))
    needed, free = config.batch_size * side**2 * 3, available_memory()
    if needed > free:
        raise UserError(
            f"a batch of {config.batch_size:,} images of {side} px takes "
            f"{human_bytes(needed)}, and {human_bytes(free)} of memory are free; choose a smaller "
            "--batch-size or --image-size"
        )


def check_fit(model: Classifier, config: TrainConfig, images_per_epoch: int) -> None:
    """Try one image of the wanted sizes, and where an epoch ends on a single image, that batch.

    Raises:
        UserError: The architecture cannot take the image size, or the batch of one.
    """
    smallest = training_sizes(config)[0]
    for side in dict.fromkeys((config.image_size, smallest)):
        image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
        try:
            with torch.no_grad():
                model.eval()(image)
        except (RuntimeError, ValueError, AssertionError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            option = "image-size" if side == config.image_size else "start-size"
            raise UserError(
                f"{config.arch} cannot take images of {side} px ({reason}); try --{option} 224"
            ) from None
    if config.head == "only":
        return  # no step is made
    option = "micro-batch" if config.micro_batch else "batch-size"
    at_once = config.micro_batch or config.batch_size
    batches = (config.batch_size, images_per_epoch % config.batch_size)
    shares = {each for batch in batches for each in share_sizes(batch)}
    if at_once != 1 and all(each % at_once != 1 and each != 1 for each in shares):
        return
    try:
        learning = deepcopy(model)
        training_mode(learning, freeze_norm=config.freeze_norm)
        with torch.no_grad():
            learning(image)
    except ValueError:  # batch normalisation over a single value
        over = f" over {size()} processes" if size() > 1 else ""
        raise UserError(
            f"the last batch of an epoch ({images_per_epoch} images, --{option} {at_once}{over}) "
            f"holds one image, on which {config.arch} cannot train at {smallest} px; choose "
            f"another --{option}"
        ) from None
