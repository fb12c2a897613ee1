"""The reference: Pillow and torchvision transforms in DataLoader workers, as a user would write it.

The augmentation is torchvision's own (its ColorJitter clamps after each step, in random order), so
it agrees with the planned back ends in the order of the samples but not in their pixels.
"""

from __future__ import annotations

import io
from collections.abc import Generator

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from loaders.augment import AugmentConfig
from loaders.batch import Batch
from loaders.config import LoaderConfig
from loaders.plan import PlannedBatch
from loaders.planned import PlannedLoader
from shards.errors import ShardError
from shards.machine import allowed_cores
from shards.reader import Split, is_array, view_array

Item = tuple[torch.Tensor, int, int]


class TorchvisionLoader(PlannedLoader):
    """A DataLoader over stored images, or over the original files with ``originals``."""

    name = "torchvision"

    def __init__(self, config: LoaderConfig) -> None:
        super().__init__(config)
        self._workers = config.threads or allowed_cores()

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch]:
        """The batches of an epoch; its workers start and end with it."""
        config = self._config
        planned = list(self._planned.plan.batches(epoch, first_step))
        loader: DataLoader[Item | ShardError] = DataLoader(
            _Photographs(self._planned.split, config, epoch),
            batch_sampler=[_addresses(batch) for batch in planned if len(batch.ids)],
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=config.device.startswith("cuda"),
            prefetch_factor=config.prefetch,
            generator=torch.Generator(),  # else it draws from the generator of the model
        )
        for collated in loader:
            if isinstance(collated, ShardError):
                raise collated
            images, labels, ids = collated
            yield Batch(
                images.to(config.device, non_blocking=True).permute(0, 3, 1, 2),
                labels.to(config.device, non_blocking=True),
                ids.to(config.device, non_blocking=True),
            )
        if planned and not len(planned[-1].ids):
            yield self._empty_batch()

    def _empty_batch(self) -> Batch:
        """This rank's share of a last global batch with fewer images than ranks."""
        size, device = self._config.image_size, self._config.device
        images = torch.empty((0, size, size, 3), dtype=torch.uint8, device=device)
        none = torch.empty(0, dtype=torch.int64, device=device)
        return Batch(images.permute(0, 3, 1, 2), none, none)


class _Photographs(Dataset["Item | ShardError"]):
    """``(position in the epoch, sample id)`` -> image (H, W, 3) uint8, label, id.

    A damaged sample comes as the error, which a worker that raised it would wrap in a traceback.
    """

    def __init__(self, split: Split, config: LoaderConfig, epoch: int) -> None:
        self._split = split
        self._originals = config.originals
        self._transform = reference_transform(config)
        self._key = (config.seed, epoch)

    def __getitem__(self, address: tuple[int, int]) -> Item | ShardError:
        position, sample = address
        # Keyed by position, as the planned draws are: the same for any number of workers.
        seed = np.random.SeedSequence([*self._key, position]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))
        try:
            pixels: torch.Tensor = self._transform(self._image(sample))
        except ShardError as error:
            return error
        return pixels.permute(1, 2, 0), int(self._split.samples["label"][sample]), sample

    def _image(self, sample: int) -> Image.Image:
        if self._originals is not None:
            path = self._originals / str(self._split.metadata(sample)["path"])
            return Image.open(path).convert("RGB")
        payload = self._split.payload(sample)
        if is_array(payload):
            return Image.fromarray(view_array(payload))
        return Image.open(io.BytesIO(payload)).convert("RGB")


def reference_transform(config: LoaderConfig) -> v2.Transform:
    """The baseline's transforms, ending in a ``(3, S, S)`` uint8 tensor."""
    steps: list[torch.nn.Module]
    if config.augment is None:
        steps = [
            v2.Resize(config.eval_resize, antialias=True),
            v2.CenterCrop(config.image_size),
        ]
    else:
        steps = _training_steps(config.augment, config.image_size)
    return v2.Compose([*steps, v2.PILToTensor()])


def _training_steps(augment: AugmentConfig, image_size: int) -> list[torch.nn.Module]:
    return [
        v2.RandomResizedCrop(image_size, scale=augment.crop_scale, ratio=augment.crop_ratio),
        v2.RandomHorizontalFlip(augment.hflip_prob),
        v2.ColorJitter(augment.brightness, augment.contrast, augment.saturation, augment.hue),
    ]


def _addresses(batch: PlannedBatch) -> list[tuple[int, int]]:
    return [(batch.first_position + at, sample) for at, sample in enumerate(batch.ids.tolist())]


def _collate(
    items: list[Item | ShardError],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | ShardError:
    whole = [item for item in items if not isinstance(item, ShardError)]
    if len(whole) < len(items):
        return next(item for item in items if isinstance(item, ShardError))
    images, labels, ids = zip(*whole, strict=True)
    return torch.stack(images), torch.tensor(labels), torch.tensor(ids)
