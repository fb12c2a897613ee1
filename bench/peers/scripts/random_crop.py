"""The crop of torchvision's RandomResizedCrop, for a loader that has none of its own."""

from __future__ import annotations

import math
import random

TRIES = 10


def random_crop(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Left, top, width and height [px].

    Args:
        width: Of the image [px].
        height: Of the image [px].
        scale: Range of the crop's share of the image's area.
        ratio: Range of its width over its height.
    """
    low, high = map(math.log, ratio)
    for _ in range(TRIES):
        area = width * height * random.uniform(*scale)
        aspect = math.exp(random.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    # The largest in the middle whose shape is allowed.
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (width - w) // 2, (height - h) // 2, w, h
