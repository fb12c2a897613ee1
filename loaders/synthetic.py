"""The ceiling: one fixed random batch already on the device, handed out again and again."""

from __future__ import annotations

from collections.abc import Generator

import torch

from loaders.batch import Batch
from loaders.config import LoaderConfig
from loaders.planned import PlannedLoader


class SyntheticLoader(PlannedLoader):
    """As many batches as the real epoch has, at no cost: what remains is the step."""

    name = "synthetic"

    def __init__(self, config: LoaderConfig) -> None:
        super().__init__(config)
        size = config.image_size
        generator = torch.Generator().manual_seed(config.seed)
        images = torch.randint(
            256, (config.batch_size, size, size, 3), dtype=torch.uint8, generator=generator
        )
        self._images = images.to(config.device).permute(0, 3, 1, 2)

    def epoch(
        self, epoch: int, first_step: int = 0, image_size: int | None = None
    ) -> Generator[Batch]:
        """The planned labels and ids with images that have nothing to do with them."""
        side = self.side(image_size)
        images = self._images
        if side < images.shape[-1]:  # a corner of them, in memory as a batch of that size is
            corner = images[:, :, :side, :side]
            images = corner.contiguous(memory_format=torch.channels_last)
        for batch in self._planned.plan.batches(epoch, first_step):
            labels, ids = self._planned.labels_and_ids(batch)
            yield Batch(images[: len(ids)], labels.to(images.device), ids.to(images.device))
