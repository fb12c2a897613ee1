"""The loaders of a run: one definition for training, evaluation and everything after it."""

from __future__ import annotations

from pathlib import Path

from loaders.batch import Loader
from loaders.config import LoaderConfig
from loaders.factory import create_loader
from train.recipes import TrainConfig
from train.resolve import Resolved


def train_loader(config: TrainConfig, resolved: Resolved, shards: Path) -> Loader:
    """Augmented, shuffled batches of the train split."""
    return create_loader(
        LoaderConfig(
            shards=shards,
            split="train",
            backend=resolved.loader,
            device=str(resolved.device),
            batch_size=config.batch_size,
            sampling=config.sampling,
            mini=config.mini,
            seed=config.seed,
            drop_last=config.drop_last,
            image_size=config.image_size,
            augment=config.augment,
            resample=config.resample,
            threads=resolved.threads,
        )
    )


def eval_loader(config: TrainConfig, resolved: Resolved, shards: Path, split: str) -> Loader:
    """Every sample of a split once, central crop, antialiased."""
    return create_loader(
        LoaderConfig(
            shards=shards,
            split=split,
            backend=resolved.loader,
            device=str(resolved.device),
            batch_size=config.batch_size,
            sampling="natural",
            shuffle=False,
            image_size=config.image_size,
            resize_size=config.eval_resize,
            resample="antialias",
            threads=resolved.threads,
        )
    )
