"""LitData: ``optimize`` packs the JPEGs into chunks, ``StreamingDataset`` decodes them to tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"  # else it asks the package index

import litdata
from PIL import Image

from bench.peers.scripts.baseline import baseline_transform

CHUNK_BYTES = "64MB"  # of their own example


def read(sample: tuple[str, int]) -> dict[str, Any]:
    """A JPEG that Pillow opened from a file is stored byte for byte."""
    file, label = sample
    return {"image": Image.open(file), "label": label}


def augment(transform: Callable[[Any], Any], sample: dict[str, Any]) -> tuple[Any, int]:
    """Of the tensor that it decoded."""
    return transform(sample["image"]), sample["label"]


def open_loader(settings: dict[str, Any]) -> Callable[[int], Iterator[int]]:
    """Chunks are written at first; what an epoch shows twice is stored twice."""
    samples = list(zip(settings["files"], settings["labels"], strict=True))
    times = -(-settings["stored_epoch_images"] // len(samples))
    folder = os.path.join(settings["work"], "chunks")
    litdata.optimize(
        fn=read,
        inputs=samples * times,
        output_dir=folder,
        chunk_bytes=CHUNK_BYTES,
        num_workers=settings["workers"],
    )
    dataset = litdata.StreamingDataset(
        folder,
        shuffle=True,
        drop_last=True,
        transform=partial(augment, baseline_transform(settings)),
    )
    loader = litdata.StreamingDataLoader(
        dataset,
        batch_size=settings["batch_size"],
        num_workers=settings["workers"],
        drop_last=True,
        persistent_workers=True,
    )

    def epochs(epoch: int) -> Iterator[int]:
        return (len(images) for images, _ in loader)

    return epochs
