"""The loaders of a run: one definition for training, evaluation and everything after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loaders.batch import Loader
from loaders.config import LoaderConfig
from loaders.factory import create_loader
from shards.reader import ShardSet
from train.config.config import TrainConfig
from train.config.distributed import rank, size
from train.config.resolution import training_sizes
from train.config.resolve import Resolved
from train.method.few_batches import FewBatches


def train_loader(config: TrainConfig, resolved: Resolved, shards: Path) -> Loader:
    """Augmented, shuffled batches of the train split."""
    loader = create_loader(
        LoaderConfig(
            shards=shards,
            url=resolved.url,
            split="train",
            backend=resolved.loader,
            device=str(resolved.device),
            batch_size=_batch_size(config, shards),
            sampling=config.sampling,
            epoch_size=config.epoch_size,
            subset=config.train_subset,
            seed=config.seed,
            rank=rank(),
            world_size=size(),
            drop_last=config.drop_last,
            image_size=training_sizes(config)[-1],
            augment=config.augment,
            resample=config.resample,
            augment_by=config.augment_by,
            read=config.read,
            reduced_decode=config.reduced_decode,
            verify=config.verify,
            on_bad_sample=config.on_bad_sample,
            threads=resolved.threads,
            prefetch=resolved.prefetch,
            hw_decoder_load=resolved.hw_decoder_load,
        )
    )
    if config.is_trial:
        return FewBatches(loader, config.overfit_batches or 1, config.batch_size)
    return loader


def _batch_size(config: TrainConfig, shards: Path) -> int:
    """Of the training loader: without steps, a split smaller than a batch is one batch."""
    if config.head != "only":
        return config.batch_size
    with ShardSet(shards).split("train") as stored:
        images = int(np.count_nonzero(config.train_subset.repeats(stored)))
    return max(1, min(config.batch_size, config.epoch_size or images))


def val_loader(config: TrainConfig, resolved: Resolved, shards: Path) -> Loader:
    """What a run is judged by after each epoch."""
    if config.overfit_batches is not None:
        return train_loader(config, resolved, shards)
    loader = eval_loader(config, resolved, shards, "val")
    return FewBatches(loader, 1, config.batch_size) if config.fast_dev_run else loader


def eval_loader(config: TrainConfig, resolved: Resolved, shards: Path, split: str) -> Loader:
    """Every sample of a split once, central crop, antialiased."""
    return create_loader(eval_config(config, resolved, shards, split))


def eval_config(config: TrainConfig, resolved: Resolved, shards: Path, split: str) -> LoaderConfig:
    """What :func:`eval_loader` opens.

    Of the classes of the run alone; in a run with a fold, ``val`` is that fold of the train split,
    and ``train`` the rest of it.
    """
    return LoaderConfig(
        shards=shards,
        url=resolved.url,
        split=stored_split(config, split),
        backend=resolved.loader,
        device=str(resolved.device),
        batch_size=config.batch_size,
        sampling="natural",
        subset=config.eval_subset(split),
        shuffle=False,
        rank=rank(),
        world_size=size(),
        image_size=config.image_size,
        resize_size=config.eval_resize,
        resample="antialias",
        verify=config.verify,
        threads=resolved.threads,
        prefetch=resolved.prefetch,
        hw_decoder_load=resolved.hw_decoder_load,
    )


def count_eval_images(config: TrainConfig, shards: Path, split: str) -> int:
    """How many images :func:`eval_loader` would show; 0 where there is no such split."""
    opened = ShardSet(shards)
    name = stored_split(config, split)
    if name not in opened.manifest.splits:
        return 0
    with opened.split(name) as stored:
        return int(np.count_nonzero(config.eval_subset(split).repeats(stored)))


def stored_split(config: TrainConfig, split: str) -> str:
    """The split of the shard set that a split of the run is made of."""
    return "train" if split == "val" and config.fold is not None else split
