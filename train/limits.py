"""Bounds of what a run may be asked for: beyond them is a slip of the keyboard, not a wish."""

from __future__ import annotations

LIMITS: dict[str, tuple[int, int]] = {
    "epochs": (1, 100_000),
    "batch_size": (1, 65_536),
    "epoch_size": (1, 100_000_000),
    "image_size": (16, 4096),
    "eval_resize": (16, 8192),
    "threads": (1, 512),
}
"""Smallest and largest value, by field of the configuration."""
