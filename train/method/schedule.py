"""Learning rates as pure functions of progress: no state, so a resumed run needs none."""

from __future__ import annotations

import math

from train.config.config import TrainConfig


def rate_at(config: TrainConfig, progress: float) -> float:
    """The rate of a step: a linear rise in the warm-up, then what the schedule's name says.

    ``cosine-epoch`` falls once an epoch, at the first step of each; of a run that is not counted in
    epochs, as often as its configuration has epochs.

    Args:
        config: Its schedule, rates, warm-up and epochs.
        progress: Share of the run that is done in the middle of the step, in [0, 1].
    """
    if config.schedule == "cosine-epoch":
        epoch = min(int(progress * config.epochs), config.epochs - 1)
        return cosine_per_epoch(epoch, config.epochs, config.lr, config.min_lr)
    if progress < config.warmup:
        return config.lr * progress / config.warmup
    if config.schedule == "constant":
        return config.lr
    fallen = (progress - config.warmup) / (1 - config.warmup)
    left = 1 - fallen if config.schedule == "linear" else (1 + math.cos(math.pi * fallen)) / 2
    return config.min_lr + (config.lr - config.min_lr) * left


def cosine_per_epoch(epoch: int, epochs: int, lr: float, min_lr: float) -> float:
    """Learning rate of an epoch; equals ``CosineAnnealingLR(T_max=epochs, eta_min=min_lr)``.

    Args:
        epoch: From 0 on.
        epochs: Of the whole run.
        lr: In epoch 0.
        min_lr: In the epoch after the last.
    """
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * epoch / epochs)) / 2
