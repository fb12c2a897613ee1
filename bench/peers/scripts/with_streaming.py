"""mosaicml-streaming: ``MDSWriter`` packs the JPEGs, ``StreamingDataset`` gives Pillow images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image
from streaming import MDSWriter, StreamingDataset
from torch.utils.data import DataLoader

from bench.peers.scripts.baseline import baseline_transform


class Photographs(StreamingDataset):  # type: ignore[misc]  # it ships no types
    """Samples with the baseline's augmentation."""

    def __init__(self, settings: dict[str, Any], folder: str) -> None:
        super().__init__(
            local=folder,
            shuffle=True,
            batch_size=settings["batch_size"],
            epoch_size=settings["epoch_images"],
        )
        self._transform = baseline_transform(settings)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        sample = super().__getitem__(index)
        return self._transform(sample["image"].convert("RGB")), sample["label"]


def open_loader(settings: dict[str, Any]) -> Callable[[int], Iterator[int]]:
    """JPEGs that Pillow opened from files are stored byte for byte."""
    folder = os.path.join(settings["work"], "mds")
    with MDSWriter(out=folder, columns={"image": "jpeg", "label": "int"}) as writer:
        for file, label in zip(settings["files"], settings["labels"], strict=True):
            with Image.open(file) as image:
                writer.write({"image": image, "label": label})
    loader: DataLoader[tuple[Any, int]] = DataLoader(
        Photographs(settings, folder),
        batch_size=settings["batch_size"],
        num_workers=settings["workers"],
        drop_last=True,
        persistent_workers=True,
    )

    def epochs(epoch: int) -> Iterator[int]:
        return (len(images) for images, _ in loader)

    return epochs
