"""The photographs on which an exported file is compared with PyTorch, calibrated and scored."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from loaders.batch import Batch
from loaders.factory import create_loader
from shards.settings import path_setting
from train.checkpoints.checkpoint import Checkpoint
from train.config.resolve import Resolved
from train.method.batches import count_eval_images, eval_config

BATCH = 50


def images_to_compare(
    saved: Checkpoint, resolved: Resolved, shards: str | None, count: int
) -> list[torch.Tensor]:
    """Batches of the first images of the test split, of val where there is no test.

    Args:
        saved: The checkpoint.
        resolved: On a CPU.
        shards: The shard set; None for that of the run, or this machine's.
        count: Images at most.

    Returns:
        ``(B, 3, S, S)`` uint8 each; none where no set was named and that of the run is gone.

    Raises:
        ShardError: The named set is none.
    """
    folder = set_of(saved, shards)
    if folder is None:
        return []
    batches: list[torch.Tensor] = []
    for batch in shown(saved, resolved, folder, judged_split(saved, folder)):
        batches.append(batch.images[: count - sum(map(len, batches))].clone())
        if sum(map(len, batches)) >= count:
            break
    return batches


def set_of(saved: Checkpoint, shards: str | None) -> Path | None:
    """The shard set: the named one, else that of the run, else this machine's; None without any."""
    folder = Path(shards or saved.shards.directory)
    if shards is None and not folder.is_dir():
        folder = path_setting("shards_dir") or folder
        if not folder.is_dir():
            return None
    return folder


def judged_split(saved: Checkpoint, folder: Path) -> str:
    """``test``, or ``val`` where there is no test."""
    return "test" if count_eval_images(saved.config, folder, "test") else "val"


def shown(
    saved: Checkpoint, resolved: Resolved, folder: Path, split: str, *, shuffle: bool = False
) -> Generator[Batch]:
    """The images of a split as in an evaluation, in batches of :data:`BATCH`."""
    config = replace(
        eval_config(saved.config, resolved, folder, split),
        batch_size=BATCH,
        backend="opencv",
        shuffle=shuffle,
    )
    with closing(create_loader(config)) as loader, closing(loader.epoch(0)) as epoch:
        yield from epoch
