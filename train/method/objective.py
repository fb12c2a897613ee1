"""What a batch asks of the network: its images, mixed where the recipe says so, and their loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from loaders.batch import Batch
from loaders.mixing import draw_mixing, mix
from train.config.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Target:
    """The labels of a batch: one an image, or two with weights where images were mixed."""

    labels: torch.Tensor
    """``(B,)`` int64."""
    others: torch.Tensor | None = None
    """``(B,)`` int64, labels of the images mixed in."""
    weights: torch.Tensor | None = None
    """``(B,)`` float32 in [0, 1], of ``labels``; the rest is that of ``others``."""

    def part(self, images: slice) -> Target:
        """The target of some of the images."""
        both = (self.others, self.weights)
        return Target(
            self.labels[images], *(each if each is None else each[images] for each in both)
        )

    def loss(self, logits: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        """Mean cross entropy, a scalar; of mixed images that of both labels by their weights.

        Args:
            logits: ``(B, K)``.
            label_smoothing: Share of a label's weight that is spread over all classes.
        """
        if self.others is None or self.weights is None:
            return cross_entropy(logits, self.labels, label_smoothing=label_smoothing)
        own, other = (
            cross_entropy(logits, each, label_smoothing=label_smoothing, reduction="none")
            for each in (self.labels, self.others)
        )
        return (self.weights * own + (1 - self.weights) * other).mean()


def prepare(
    batch: Batch, config: TrainConfig, *, epoch: int, first_position: int
) -> tuple[torch.Tensor, Target]:
    """The images to show and what to ask of them, on the batch's own device.

    Args:
        batch: As the loader gave it.
        config: Of the run: how images are mixed, if at all.
        epoch: The batch's.
        first_position: Place of its first image in the order of the epoch.
    """
    mixing = draw_mixing(
        config.augment,
        seed=config.seed,
        epoch=epoch,
        first_position=first_position,
        count=len(batch),
        image_size=batch.images.shape[-1],
    )
    if mixing is None:
        return batch.images, Target(batch.labels)
    mixed = mix(batch.images, batch.labels, mixing)
    return mixed.images, Target(mixed.labels_a, mixed.labels_b, mixed.lam)


def micro_batches(
    images: torch.Tensor, target: Target, size: int | None
) -> Iterator[tuple[torch.Tensor, Target, float]]:
    """The parts of a batch that pass through the network one after the other.

    Gradients of the parts' mean losses, each times its share of the images, add up to the gradient of
    the batch's mean loss, up to rounding; batch normalisation alone sees the parts.

    Args:
        images: ``(B, ...)``.
        target: Of these images.
        size: Images of a part, the last one may have fewer; None: the batch is one part.
    """
    count = len(images)
    if size is None or size >= count:
        yield images, target, 1.0
        return
    for first in range(0, count, size):
        part = slice(first, first + size)
        yield images[part], target.part(part), len(images[part]) / count
