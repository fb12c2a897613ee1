"""torchvision: a ``Dataset`` over files, Pillow, transforms v2, a ``DataLoader`` with workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bench.peers.scripts.baseline import baseline_transform


class Photographs(Dataset[tuple[torch.Tensor, int]]):
    """Files one after the other, again and again up to ``length``."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._files: list[str] = settings["files"]
        self._labels: list[int] = settings["labels"]
        self._length: int = settings["epoch_images"]
        self._transform = baseline_transform(settings)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        at = index % len(self._files)
        with Image.open(self._files[at]) as file:
            image = file.convert("RGB")
        return self._transform(image), self._labels[at]


def open_loader(settings: dict[str, Any]) -> Callable[[int], Iterator[int]]:
    """Workers that live as long as the loader."""
    loader = DataLoader(
        Photographs(settings),
        batch_size=settings["batch_size"],
        shuffle=True,
        drop_last=True,
        num_workers=settings["workers"],
        persistent_workers=True,
    )

    def epochs(epoch: int) -> Iterator[int]:
        torch.manual_seed(epoch)
        return (len(images) for images, _ in loader)

    return epochs
