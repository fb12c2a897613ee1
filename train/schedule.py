"""Learning rates as pure functions of progress."""

from __future__ import annotations

import math


def cosine_per_epoch(epoch: int, epochs: int, lr: float, min_lr: float) -> float:
    """Learning rate of an epoch; equals ``CosineAnnealingLR(T_max=epochs, eta_min=min_lr)``.

    Args:
        epoch: From 0 on.
        epochs: Of the whole run.
        lr: In epoch 0.
        min_lr: In the epoch after the last.
    """
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * epoch / epochs)) / 2
