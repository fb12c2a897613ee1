"""What every planned back end starts from: an opened split, its plan, the transforms of a batch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from loaders.augment import Transforms, draw_transforms, evaluation_transforms
from loaders.bad_samples import BadSamples
from loaders.config import LoaderConfig
from loaders.draws import Ids
from loaders.plan import Plan, PlannedBatch
from shards.errors import UserError
from shards.reader import ShardSet


class PlannedSplit:
    """A split, the order of its epochs, and what happens to each image.

    Raises:
        ShardError: From the constructor, where the shard set is missing or damaged.
        UserError: From the constructor, where the split is smaller than one batch of training.
    """

    def __init__(self, config: LoaderConfig) -> None:
        self.config = config
        self.split = ShardSet(config.shards).split(config.split, verify=config.verify)
        self.plan = Plan(
            repeats=config.subset.repeats(self.split),
            labels=self.split.labels,
            sampling=config.sampling,
            epoch_size=config.epoch_size,
            seed=config.seed,
            shuffle=config.shuffle,
            batch_size=config.batch_size,
            rank=config.rank,
            world_size=config.world_size,
            drop_last=config.drop_last,
        )
        images = self.plan.images_per_epoch
        if images == 0:
            part = f" of this subset ({config.subset})" if str(config.subset) else ""
            raise UserError(f"split {config.split!r} of {config.shards} holds no image{part}")
        if config.augment is not None and images < config.batch_size:
            raise UserError(
                f"batch size {config.batch_size} is larger than the {config.split} split "
                f"({images} images an epoch); choose at most {images}"
            )
        self._labels = self.split.labels
        self._widths = self.split.samples["width"].astype(np.int64)
        self._heights = self.split.samples["height"].astype(np.int64)

    def transforms(
        self, epoch: int, batch: PlannedBatch, image_size: int | None = None
    ) -> Transforms:
        """What to do with each image of a batch; ``image_size`` as in :meth:`PlannedLoader.side`."""
        widths, heights = self._widths[batch.ids], self._heights[batch.ids]
        config = self.config
        if config.augment is None:
            return evaluation_transforms(widths, heights, config.image_size, config.eval_resize)
        return draw_transforms(
            config.augment,
            seed=config.seed,
            epoch=epoch,
            first_position=batch.first_position,
            widths=widths,
            heights=heights,
            image_size=image_size or config.image_size,
        )

    def labels_and_ids(self, batch: PlannedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Two ``(B,)`` int64 tensors on the CPU."""
        return torch.from_numpy(self._labels[batch.ids]), torch.from_numpy(batch.ids.copy())

    def close(self) -> None:
        """Release the shards."""
        self.split.close()


class PlannedLoader:
    """What every planned back end has in common: all but how an epoch's images are made."""

    name: str

    def __init__(self, config: LoaderConfig) -> None:
        self._config = config
        self._planned = PlannedSplit(config)
        self._bad = BadSamples(
            # An evaluation without some of its samples would pass for one with all of them.
            skips=config.on_bad_sample == "skip" and config.augment is not None,
            plan=self._planned.plan,
            transforms=self._planned.transforms,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Global batches an epoch."""
        return self._planned.plan.steps_per_epoch

    @property
    def samples_per_epoch(self) -> int:
        """Images an epoch over all ranks."""
        return len(self._planned.plan)

    @property
    def order_hash(self) -> str:
        """Of the plan."""
        return self._planned.plan.order_hash()

    @property
    def class_counts(self) -> Ids:
        """Of the plan."""
        return self._planned.plan.class_counts(self._planned.split.manifest.num_classes)

    @property
    def bad_samples(self) -> Mapping[int, str]:
        """Why each was skipped, by sample id."""
        return dict(self._bad.messages)  # threads may add to the original

    def side(self, image_size: int | None) -> int:
        """Side of an epoch's images [px]: what was asked for, at most that of the loader.

        Raises:
            ValueError: It is more, or the loader is for evaluation, where the crop is fixed.
        """
        largest = self._config.image_size
        if image_size is None or image_size == largest:
            return largest
        if self._config.augment is None or not 0 < image_size < largest:
            raise ValueError(f"this loader makes images of {largest} px, not of {image_size}")
        return image_size

    def close(self) -> None:
        """Release the shards."""
        self._planned.close()
