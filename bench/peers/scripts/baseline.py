"""The baseline's augmentation in torchvision's own transforms, for the loaders that run those."""

from __future__ import annotations

from typing import Any

from torchvision.transforms import v2


def baseline_transform(settings: dict[str, Any]) -> v2.Transform:
    """PIL image or ``(3, H, W)`` uint8 tensor in, ``(3, S, S)`` uint8 tensor out."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(
                settings["image_size"],
                scale=tuple(settings["crop_scale"]),
                ratio=tuple(settings["crop_ratio"]),
                antialias=True,
            ),
            v2.RandomHorizontalFlip(settings["hflip_prob"]),
            v2.ColorJitter(*settings["color_jitter"]),
            v2.ToImage(),
        ]
    )
