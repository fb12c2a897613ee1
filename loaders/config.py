"""What a loader is asked for: one frozen description, whatever the back end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from loaders.augment import AugmentConfig, eval_resize_size
from loaders.plan import Sampling
from loaders.subset import Subset
from shards.reader import Verify

Backend = Literal["auto", "opencv", "dali", "dali-cpu", "torchvision", "webdataset", "synthetic"]
Read = Literal["planned", "sequential"]
Resample = Literal["linear", "antialias"]
AugmentBy = Literal["plan", "torchvision"]
OnBadSample = Literal["error", "skip"]
PREFETCH = 3
HW_DECODER_LOAD = 0.65
"""DALI's own default. The best share depends on chip and threads: ``bench tune`` looks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig:
    """Which samples, how they look, where they go."""

    shards: Path
    """The shard set."""
    url: str | None = None
    """Where ``webdataset`` streams the tars from: a URL or command (:class:`loaders.fetch.Source`).
    Then ``shards`` is the rest of the set (:func:`loaders.fetch.fetched_index`)."""
    split: str = "train"
    backend: Backend = "auto"
    device: str = "cpu"
    """Where batches end up: ``cpu``, ``mps``, ``cuda`` or ``cuda:N``."""

    batch_size: int = 128
    """Images a step over all ranks."""
    sampling: Sampling = "csv"
    epoch_size: int | None = None
    """Images an epoch; by default one pass over rows (``csv``) or samples (the others)."""
    subset: Subset = field(default_factory=Subset)
    """Which samples take part, before sampling."""
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
    augment_by: AugmentBy = "torchvision"
    """For ``torchvision``: its own random transforms, which always antialias, or ``plan``, what the
    other back ends do, through Pillow."""

    read: Read = "planned"
    """For ``dali`` and ``dali-cpu``: in the order of the plan, or ``sequential``, shard after shard
    by DALI's own reader, with DALI's own augmentation; for slow disks (``docs/streaming.md``)."""
    shuffle_buffer: int = 2000
    """Images among which the next one is drawn, where shards are read sequentially."""

    threads: int | None = None
    """Decoding threads or processes; by default the allowed cores."""
    prefetch: int = PREFETCH
    """Batches prepared ahead."""
    hw_decoder_load: float = HW_DECODER_LOAD
    """For ``dali``: share of the JPEGs for the decoder engines of the chip, where it has some."""
    verify: Verify = "first"
    """When the crc32 of a sample is checked."""
    on_bad_sample: OnBadSample = "error"
    """In training, ``skip`` shows the next planned sample for one that is damaged or does not
    decode (``loaders/bad_samples.py``). Evaluation always raises."""
    reduced_decode: bool = False
    """``opencv`` decodes a JPEG at 1/2, 1/4 or 1/8 where the crop stays as large as the result.
    Faster, but the pixels are no longer those of the other back ends."""
    originals: Path | None = None
    """For ``torchvision``: decode the original files below this folder instead of the shards."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "image_size", "prefetch", "shuffle_buffer", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("epoch_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.hw_decoder_load <= 1:
            raise ValueError(f"hw_decoder_load must be in [0, 1], got {self.hw_decoder_load}")
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
