"""Learning rates as pure functions of progress: no state, so a resumed run needs none."""

from __future__ import annotations

import math

from train.config import TrainConfig


def scheduled_rate(config: TrainConfig, epoch: int, step: int, steps_per_epoch: int) -> float:
    """The rate of one step, by the schedule of the recipe.

    ``cosine-epoch`` falls once an epoch. The others move with every step, and take the progress in
    the middle of it.

    Args:
        config: Its schedule, rates, warm-up and epochs.
        epoch: From 0 on.
        step: Of the epoch, from 0 on.
        steps_per_epoch: In every epoch.
    """
    if config.schedule == "cosine-epoch":
        return cosine_per_epoch(epoch, config.epochs, config.lr, config.min_lr)
    progress = (epoch + (step + 0.5) / steps_per_epoch) / config.epochs
    return rate_at(config, progress)


def rate_at(config: TrainConfig, progress: float) -> float:
    """The rate of a schedule by step: a linear rise in the warm-up, then what its name says.

    Args:
        config: Its schedule, rates and warm-up.
        progress: Share of the run that is done, in [0, 1].
    """
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
