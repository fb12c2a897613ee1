"""Progressive resolution: training begins with small images, which cost less, and ends with large ones.

Tan and Le, "EfficientNetV2" (arXiv:2104.00298), section 4; Touvron et al., "Fixing the train-test
resolution discrepancy" (arXiv:1906.06423), for a larger size at evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from train.config.config import TrainConfig

MOST_SIZES = 4
"""Each one is a graph of its own to ``torch.compile`` and a choice of algorithms to cuDNN."""
STRIDE_PX = 16
"""Sizes between the first and the last are multiples of it: tiles of a convolution fit."""


def training_sizes(config: TrainConfig) -> tuple[int, ...]:
    """Sides of the training images in the order of their use [px]; one where they do not grow."""
    last = config.train_size or config.image_size
    first = config.start_size or last
    steps = MOST_SIZES - 1
    between = (first + (last - first) * at / steps for at in range(1, steps))
    rounded = {round(each / STRIDE_PX) * STRIDE_PX for each in between}
    return tuple(sorted({first, last} | {each for each in rounded if first < each < last}))


def training_size(config: TrainConfig, progress: float) -> int:
    """Side of the training images [px]: each size has the same share of the run.

    Args:
        config: Its sizes.
        progress: Share of the run that is done, in [0, 1].
    """
    sizes = training_sizes(config)
    return sizes[min(int(progress * len(sizes)), len(sizes) - 1)]


def mean_area(config: TrainConfig) -> float:
    """Pixels of a training image, averaged over the run: what a step costs is in proportion to it."""
    return fmean(size**2 for size in training_sizes(config))


def sizes_in_proportion(recipe: Mapping[str, Any], image_size: int) -> dict[str, int]:
    """Training sizes of a recipe where its images are evaluated at another size [px].

    Args:
        recipe: Its fields by name.
        image_size: The other size at evaluation [px].

    Returns:
        ``train_size`` and ``start_size``, those of them that the recipe sets, as multiples of
        :data:`STRIDE_PX`.
    """
    share = image_size / recipe["image_size"]
    return {
        name: max(1, round(recipe[name] * share / STRIDE_PX)) * STRIDE_PX
        for name in ("train_size", "start_size")
        if recipe[name] is not None
    }
