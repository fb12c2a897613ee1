"""The reference: Pillow and torchvision transforms in DataLoader workers, as a user would write it.

By default the augmentation is torchvision's own (its ColorJitter clamps after each step, in random
order), so it agrees with the planned back ends in the order of the samples but not in their pixels.
With ``augment_by="plan"`` Pillow does what the plan says, as a check of the other back ends.
"""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from loaders.augment import (
    ERASE_FILL,
    AugmentConfig,
    Transforms,
    color_matrices,
    draw_transforms,
)
from loaders.bad_samples import BadSamples
from loaders.batch import Batch
from loaders.config import LoaderConfig, Resample
from loaders.decode import undecodable
from loaders.plan import PlannedBatch
from loaders.planned import PlannedLoader, PlannedSplit
from shards.errors import JobError, ShardError
from shards.machine import allowed_cores
from shards.reader import SampleError, is_array, view_array

Bad = dict[int, str]
"""Bad samples that were skipped on the way to an image or a batch: id -> reason."""
Item = tuple[torch.Tensor, int, int, Bad]
Collated = tuple[torch.Tensor, torch.Tensor, torch.Tensor, Bad]


class TorchvisionLoader(PlannedLoader):
    """A DataLoader over stored images, or over the original files with ``originals``."""

    name = "torchvision"

    def __init__(self, config: LoaderConfig) -> None:
        super().__init__(config)
        self._workers = config.threads or allowed_cores()

    def epoch(
        self, epoch: int, first_step: int = 0, image_size: int | None = None
    ) -> Generator[Batch]:
        """The batches of an epoch; its workers start and end with it."""
        config, side = self._config, self.side(image_size)
        planned = list(self._planned.plan.batches(epoch, first_step))
        loader: DataLoader[Item | ShardError] = DataLoader(
            _Photographs(self._planned, self._bad.skips, epoch, side),
            batch_sampler=[_addresses(batch) for batch in planned if len(batch.ids)],
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=config.device.startswith("cuda"),
            prefetch_factor=config.prefetch,
            generator=torch.Generator(),  # else it draws from the generator of the model
        )
        for images, labels, ids, bad in _whole_batches(loader):
            for sample, message in bad.items():
                self._bad.note(sample, message)
            yield Batch(images.permute(0, 3, 1, 2), labels, ids).on(torch.device(config.device))
        if planned and not len(planned[-1].ids):
            yield self._empty_batch(side)

    def _empty_batch(self, side: int) -> Batch:
        """This rank's share of a last global batch with fewer images than ranks."""
        device = self._config.device
        images = torch.empty((0, side, side, 3), dtype=torch.uint8, device=device)
        none = torch.empty(0, dtype=torch.int64, device=device)
        return Batch(images.permute(0, 3, 1, 2), none, none)


class _Photographs(Dataset["Item | ShardError"]):
    """``(position in the epoch, sample id)`` -> image (H, W, 3) uint8, label, id, what was skipped.

    A damaged sample comes as the error, which a worker that raised it would wrap in a traceback.
    """

    def __init__(self, planned: PlannedSplit, skips: bool, epoch: int, side: int) -> None:
        self._planned = planned
        self._skips = skips
        self._split = planned.split
        self._config = replace(planned.config, image_size=side)
        self._epoch = epoch
        self._reference = reference_transform(self._config)

    def __getitem__(self, address: tuple[int, int]) -> Item | ShardError:
        position, sample = address
        bad: Bad = {}
        try:
            try:
                pixels = self._pixels(sample, position)
            except SampleError as error:
                sample, pixels = self._bad.replace(
                    self._epoch, position, sample, error,
                    lambda other, _: self._pixels(other, position),
                )  # fmt: skip
                bad = dict(self._bad.messages)
        except ShardError as error:
            return error
        return pixels, int(self._split.samples["label"][sample]), sample, bad

    @cached_property
    def _bad(self) -> BadSamples:
        """This worker's own, which tells nobody: what it met comes with the batches."""
        planned = self._planned
        return BadSamples(
            skips=self._skips, plan=planned.plan, transforms=planned.transforms, warn=False
        )

    def _pixels(self, sample: int, position: int) -> torch.Tensor:
        image = self._image(sample)
        augment = self._config.augment
        if augment is not None and self._config.augment_by == "plan":
            return self._as_planned(image, augment, position)
        return self._by_torchvision(image, position)

    def _by_torchvision(self, image: Image.Image, position: int) -> torch.Tensor:
        # Keyed by position, as the planned draws are: the same for any number of workers.
        sequence = np.random.SeedSequence([self._config.seed, self._epoch, position])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
        pixels: torch.Tensor = self._reference(image)
        return pixels.permute(1, 2, 0)

    def _as_planned(
        self, image: Image.Image, augment: AugmentConfig, position: int
    ) -> torch.Tensor:
        # Of the image at hand, which is an original file's where those are read.
        transforms = draw_transforms(
            augment,
            seed=self._config.seed,
            epoch=self._epoch,
            first_position=position,
            widths=np.array([image.width]),
            heights=np.array([image.height]),
            image_size=self._config.image_size,
        )
        planned = apply_transforms(image, transforms, self._config.resample)
        return torch.from_numpy(np.array(planned))

    def _image(self, sample: int) -> Image.Image:
        try:
            if self._config.originals is not None:
                path = self._config.originals / str(self._split.metadata(sample)["path"])
                return Image.open(path).convert("RGB")
            payload = self._split.payload(sample)
            if is_array(payload):
                return Image.fromarray(view_array(payload))
            return Image.open(io.BytesIO(payload)).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:  # the three that Pillow raises
            raise undecodable(self._split, sample, error) from None


def reference_transform(config: LoaderConfig) -> v2.Transform:
    """The baseline's transforms, ending in a ``(3, S, S)`` uint8 tensor."""
    if config.augment is None:
        steps = [
            v2.Resize(config.eval_resize, antialias=True),
            v2.CenterCrop(config.image_size),
            v2.PILToTensor(),
        ]
    else:
        steps = _training_steps(config.augment, config.image_size)
    return v2.Compose(steps)


def _training_steps(augment: AugmentConfig, image_size: int) -> list[v2.Transform]:
    steps = [
        v2.RandomResizedCrop(image_size, scale=augment.crop_scale, ratio=augment.crop_ratio),
        v2.RandomHorizontalFlip(augment.hflip_prob),
        v2.ColorJitter(augment.brightness, augment.contrast, augment.saturation, augment.hue),
    ]
    if augment.grayscale_prob:
        steps.append(v2.RandomGrayscale(augment.grayscale_prob))
    steps.append(v2.PILToTensor())
    if augment.erase_prob:
        scale, ratio = augment.erase_scale, augment.erase_ratio
        steps.append(v2.RandomErasing(augment.erase_prob, scale, ratio, value=list(ERASE_FILL)))
    return steps


def apply_transforms(image: Image.Image, transforms: Transforms, resample: Resample) -> Image.Image:
    """What the planned back ends make of an image, through Pillow.

    Args:
        image: RGB.
        transforms: Of this image alone, for training: the crop is resized to the whole result.
        resample: ``antialias`` is Pillow's resize. ``linear`` is its affine transform, which takes
            the four nearest pixels as OpenCV does, but cuts fractions off where OpenCV rounds:
            0.4 of 255 darker on average, never more than 1.
    """
    side = transforms.image_size
    top, left, height, width = transforms.crops[0].tolist()
    # Cut out first: with box= or an extent the filter would see pixels beside the crop.
    region = image.crop((left, top, left + width, top + height))
    if resample == "antialias" or region.size == (side, side):
        result = region.resize((side, side), Image.Resampling.BILINEAR)
    else:
        result = region.transform(
            (side, side),
            Image.Transform.EXTENT,
            (0, 0, width, height),
            Image.Resampling.BILINEAR,
        )
    if transforms.colors is not None:
        matrix = color_matrices(transforms.colors)[0]
        result = result.convert("RGB", tuple(matrix.ravel().tolist()))
    if transforms.flips[0]:
        result = result.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if transforms.erasures is not None:
        top, left, height, width = transforms.erasures[0].tolist()
        result.paste(ERASE_FILL, (left, top, left + width, top + height))
    return result


def _addresses(batch: PlannedBatch) -> list[tuple[int, int]]:
    return [(batch.first_position + at, sample) for at, sample in enumerate(batch.ids.tolist())]


def _collate(items: list[Item | ShardError]) -> Collated | ShardError:
    whole = [item for item in items if not isinstance(item, ShardError)]
    if len(whole) < len(items):
        return next(item for item in items if isinstance(item, ShardError))
    images, labels, ids, bads = zip(*whole, strict=True)
    bad = {sample: message for each in bads for sample, message in each.items()}
    return torch.stack(images), torch.tensor(labels), torch.tensor(ids), bad


def _whole_batches(loader: DataLoader[Item | ShardError]) -> Iterator[Collated]:
    """What the workers collated.

    Raises:
        ShardError: A worker met one.
        JobError: A worker died.
    """
    try:
        for collated in _started(loader):
            if isinstance(collated, ShardError):
                raise collated
            yield collated
        return
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).splitlines()[0]
    # Raised out here, where no traceback holds on to torch's iterator and its other workers.
    raise JobError(
        f"a worker of the torchvision loader died ({reason}); the usual cause is too little "
        "memory: use fewer --threads, or --loader opencv"
    )


def _started(loader: DataLoader[Item | ShardError]) -> Iterator[Collated | ShardError]:
    """Start the workers, without the handler that torch installs for their death.

    It would raise in whatever the main thread does at that moment, a training step included.
    Without it the next batch tells, some seconds later.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)
    return batches
