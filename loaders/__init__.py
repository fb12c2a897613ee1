"""Shard set -> batches on a device: the plan, augmentation as data, one back end a file."""

from loaders.batch import Batch, Loader
from loaders.config import LoaderConfig

__all__ = ["Batch", "Loader", "LoaderConfig"]
