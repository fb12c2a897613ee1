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

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch]:
        """The planned labels and ids with images that have nothing to do with them."""
        for batch in self._planned.plan.batches(epoch, first_step):
            labels, ids = self._planned.labels_and_ids(batch)
            device = self._images.device
            yield Batch(self._images[: len(ids)], labels.to(device), ids.to(device))
