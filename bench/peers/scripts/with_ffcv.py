"""FFCV: a .beton file of JPEGs or of pixels, decoded, cropped and mirrored by compiled threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter
from PIL import Image

WRITE_MODES = {"jpeg": "jpg", "raw": "raw"}


class Photographs:
    """What its writer reads: pixels and label."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._samples = list(zip(settings["files"], settings["labels"], strict=True))

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        file, label = self._samples[index]
        with Image.open(file) as image:
            return np.array(image.convert("RGB")), label


def open_loader(settings: dict[str, Any]) -> Callable[[int], Iterator[int]]:
    """Its writer encodes JPEGs anew, at the quality that the shards have."""
    file = os.path.join(settings["work"], f"{settings['store']}.beton")
    image = RGBImageField(
        write_mode=WRITE_MODES[settings["store"]], jpeg_quality=settings["jpeg_quality"]
    )
    writer = DatasetWriter(
        file, {"image": image, "label": IntField()}, num_workers=settings["workers"]
    )
    photographs = Photographs(settings)
    writer.from_indexed_dataset(photographs)
    size = settings["image_size"]
    decoder = RandomResizedCropRGBImageDecoder(
        (size, size), scale=tuple(settings["crop_scale"]), ratio=tuple(settings["crop_ratio"])
    )
    times = -(-settings["epoch_images"] // len(photographs))
    loader = Loader(
        file,
        batch_size=settings["batch_size"],
        num_workers=settings["workers"],
        order=OrderOption.RANDOM,
        os_cache=True,
        indices=np.tile(np.arange(len(photographs), dtype=np.uint64), times),
        pipelines={
            "image": [
                decoder,
                RandomHorizontalFlip(settings["hflip_prob"]),
                ToTensor(),
                ToTorchImage(),
            ],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )

    def epochs(epoch: int) -> Iterator[int]:
        batches = iter(loader)
        try:
            for images, _ in batches:
                yield len(images)
        finally:
            # Its thread keeps a reference to itself, so that it would wait for ever.
            batches.close()
            batches.join()

    return epochs
