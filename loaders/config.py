"""What a loader is asked for: one frozen description, whatever the back end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loaders.augment import AugmentConfig, eval_resize_size
from loaders.plan import Sampling
from shards.reader import Verify

Backend = Literal["auto", "opencv", "dali", "dali-cpu", "torchvision", "synthetic"]
Resample = Literal["linear", "antialias"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig:
    """Which samples, how they look, where they go."""

    shards: Path
    """The shard set."""
    split: str = "train"
    backend: Backend = "auto"
    device: str = "cpu"
    """Where batches end up: ``cpu``, ``mps``, ``cuda`` or ``cuda:N``."""

    batch_size: int = 128
    """Images a step over all ranks."""
    sampling: Sampling = "csv"
    mini: int | None = None
    """At most so many CSV rows of each class, drawn as the baseline draws them."""
    shuffle: bool = True
    seed: int = 0
    drop_last: bool = False
    rank: int = 0
    world_size: int = 1

    image_size: int = 384
    """Side of the square images [px]."""
    augment: AugmentConfig | None = None
    """None for evaluation: shorter side to ``resize_size``, central crop."""
    resize_size: int | None = None
    """At evaluation, the shorter side before the crop [px]; by default 440/384 of the image."""
    resample: Resample = "linear"
    """``antialias`` equals Pillow and costs more; ``linear`` aliases when it shrinks."""

    threads: int | None = None
    """Decoding threads or processes; by default the allowed cores."""
    prefetch: int = 3
    """Batches prepared ahead."""
    verify: Verify = "first"
    """When the crc32 of a sample is checked."""
    originals: Path | None = None
    """For ``torchvision``: decode the original files below this folder instead of the shards."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "image_size", "prefetch", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.mini is not None and self.mini < 1:
            raise ValueError(f"mini must be at least 1, got {self.mini}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not below world_size {self.world_size}")
        if self.resize_size is not None and self.resize_size < self.image_size:
            raise ValueError(
                f"resize_size {self.resize_size} is below image_size {self.image_size}; "
                "the central crop would not fit"
            )

    @property
    def eval_resize(self) -> int:
        """The shorter side before an evaluation crop [px]."""
        return self.resize_size or eval_resize_size(self.image_size)
