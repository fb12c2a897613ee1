"""The optimizer of a run: which weights decay, at which rate a step moves them, how far at most."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from train.config.config import TrainConfig

Group = dict[str, Any]


def create_optimizer(
    model: nn.Module, config: TrainConfig, device: torch.device, head: nn.Module | None = None
) -> torch.optim.Optimizer:
    """AdamW or SGD in torch's fused form, where the device has one: a kernel for all weights.

    With a ``head`` (the last layer), the others have ``backbone_lr`` of its rate.
    """
    groups = parameter_groups(model, config)
    if head is not None:
        groups = _with_shares(groups, head, config.backbone_lr)
    fused = device.type in ("cuda", "cpu")
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused
    )


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[Group]:
    """One group that decays, and where the recipe spares norms and biases, one that does not.

    Those are the parameters with fewer than two axes: a weight with two or more maps channels to
    channels.
    """
    parameters = list(model.parameters())
    spared = [] if config.decay_norm_and_bias else [each for each in parameters if each.ndim < 2]
    ids = {id(each) for each in spared}
    groups: list[Group] = [
        {
            "params": [each for each in parameters if id(each) not in ids],
            "weight_decay": config.weight_decay,
        },
        {"params": spared, "weight_decay": 0.0},
    ]
    return [each for each in groups if each["params"]]


def _with_shares(groups: list[Group], head: nn.Module, backbone_lr: float) -> list[Group]:
    """Each group split in two, the last layer's part first: its rate is what the log shows."""
    known = {id(each) for each in head.parameters()}
    split: list[Group] = [
        {
            **group,
            "params": [each for each in group["params"] if (id(each) in known) is of_head],
            "lr_share": 1.0 if of_head else backbone_lr,
        }
        for of_head in (True, False)
        for group in groups
    ]
    return [each for each in split if each["params"]]


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Let the next step use this learning rate, or a group's share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_share", 1.0)


def clip_gradients(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, largest_norm: float | None
) -> None:
    """Shorten the gradients of all weights together to a norm, without waiting for the device.

    Args:
        optimizer: Whose weights have gradients.
        scaler: That enlarged them; they are brought back to their own size first.
        largest_norm: Euclidean; None leaves them as they are.
    """
    if largest_norm is None:
        return
    scaler.unscale_(optimizer)
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    nn.utils.clip_grad_norm_(parameters, largest_norm)


def state_shapes(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter
) -> dict[str, tuple[int, ...]]:
    """What the optimizer remembers of a weight after a step: the shape of each tensor by name."""
    shape = tuple(parameter.shape)
    if isinstance(optimizer, torch.optim.AdamW):
        return {"step": (), "exp_avg": shape, "exp_avg_sq": shape}
    return {"momentum_buffer": shape}
