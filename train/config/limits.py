"""Bounds of what a run may be asked for: beyond them is nonsense or a slip of the keyboard."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Bounds:
    """An interval of numbers."""

    low: float
    high: float
    without_low: bool = False
    without_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = self.low < value if self.without_low else self.low <= value
        below = value < self.high if self.without_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        """As mathematics writes it; closed intervals of whole numbers in words."""
        if isinstance(self.high, int):
            return f"from {self.low} to {self.high}"
        ends = "(" if self.without_low else "[", ")" if self.without_high else "]"
        return f"in {ends[0]}{self.low:g}, {self.high:g}{ends[1]}"


POSITIVE = Bounds(0.0, inf, without_low=True, without_high=True)
NOT_NEGATIVE = Bounds(0.0, inf, without_high=True)
SHARE = Bounds(0.0, 1.0, without_high=True)

LIMITS = {
    "epochs": Bounds(1, 100_000),
    "samples": Bounds(1, 10**12),
    "budget": Bounds(1.0, 1e8),
    "eval_every": Bounds(0.0, 1e5, without_low=True),
    "patience": Bounds(1, 100_000),
    "batch_size": Bounds(1, 65_536),
    "lr": POSITIVE,
    "min_lr": NOT_NEGATIVE,
    "backbone_lr": Bounds(0.0, 1.0, without_low=True),
    "warmup": SHARE,
    "momentum": SHARE,
    "weight_decay": NOT_NEGATIVE,
    "clip_norm": POSITIVE,
    "label_smoothing": SHARE,
    "logit_adjust": NOT_NEGATIVE,
    "class_balance": SHARE,
    "hierarchy_beta": POSITIVE,
    "hierarchy_weight": NOT_NEGATIVE,
    "ema": Bounds(0.0, 1.0, without_low=True, without_high=True),
    "stochastic_depth": SHARE,
    "seed": Bounds(0, 2**63 - 1),
    "image_size": Bounds(16, 4096),
    "train_size": Bounds(16, 4096),
    "start_size": Bounds(16, 4096),
    "eval_resize": Bounds(16, 8192),
    "epoch_size": Bounds(1, 100_000_000),
    "mini": Bounds(1, 100_000_000),
    "shots": Bounds(1, 100_000_000),
    "imbalance": Bounds(1.0, inf, without_high=True),
    "subset_seed": Bounds(0, 2**63 - 1),
    "micro_batch": Bounds(1, 65_536),
    "threads": Bounds(1, 512),
    "prefetch": Bounds(1, 64),
    "hw_decoder_load": Bounds(0.0, 1.0),
    "overfit_batches": Bounds(1, 100_000_000),
}
"""By field of the configuration."""


def check_limits(name: str, value: float | None) -> None:
    """Raise :class:`ValueError` for a value that a field cannot have; None is always one."""
    bounds = LIMITS.get(name)
    if bounds is not None and value is not None and value not in bounds:
        raise ValueError(f"{name} must be {bounds}, got {value}")
