"""webdataset: the shards themselves, read in sequence by worker processes; torchvision transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import webdataset as wds

from bench.peers.scripts.baseline import baseline_transform

SHUFFLE_BUFFER = 1000


def open_loader(settings: dict[str, Any]) -> Callable[[int], Iterator[int]]:
    """Each worker draws shards at random, shuffles in a buffer, and makes whole batches."""
    dataset = (
        wds.WebDataset(settings["tars"], resampled=True, shardshuffle=False)
        .shuffle(SHUFFLE_BUFFER)
        .decode("pilrgb")
        .to_tuple("jpg", "cls")
        .map_tuple(baseline_transform(settings), int)
        .batched(settings["batch_size"], partial=False)
    )
    loader = wds.WebLoader(
        dataset, batch_size=None, num_workers=settings["workers"], persistent_workers=True
    )

    def epochs(epoch: int) -> Iterator[int]:
        return (len(images) for images, _ in loader)

    return epochs
