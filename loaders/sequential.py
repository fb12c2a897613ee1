"""DALI reads shards from end to end by its own reader: for disks that are slow at random access.

The order and the augmentation are DALI's own. It says only behind the reader which image came next,
so the plan's crops cannot be handed in; they are drawn in the graph, from the same distributions.
For training alone: ``docs/streaming.md``.
"""

from __future__ import annotations

import gc
import hashlib
import math
import sys
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia import dali
from torch.utils.dlpack import from_dlpack

from loaders.augment import CROP_TRIES, ERASE_FILL, AugmentConfig
from loaders.batch import Batch
from loaders.config import LoaderConfig
from loaders.dali import GraphDevice, check_cuda, empty_pipeline
from loaders.draws import Ids, Purpose, random_bits, random_order
from loaders.plan import PlannedBatch
from loaders.planned import PlannedLoader
from loaders.stream import Stream, check_natural
from shards.errors import ShardError, UserError
from shards.format import index_name, shard_name

fn, types = dali.fn, dali.types

SEED_BITS = 31
"""Of a pipeline's seed."""


class SequentialDaliLoader(PlannedLoader):
    """Training batches in the order of DALI's reader, on the GPU or (``dali-cpu``) on the CPU.

    Each epoch builds a pipeline of its own, whose shard order and seed come from (seed, epoch,
    rank). So an epoch does not depend on those before it, and one from a later step on shows what
    an unbroken one would, at the price of the batches before it: DALI makes and drops them.

    Raises:
        UserError: From the constructor, where DALI's reader cannot do what is asked for.
        ShardError: From the constructor, where the set is missing or a shard cut short; from an
            epoch, where DALI cannot read or decode.
    """

    def __init__(self, config: LoaderConfig) -> None:
        _check(config)
        self._graph_device: GraphDevice = "gpu" if config.backend == "dali" else "cpu"
        if self._graph_device == "gpu":
            check_cuda(config.device)
        super().__init__(config)
        self.name = config.backend
        self._device = torch.device(config.device)
        self._stream = Stream(self._planned.split, self._planned.plan)
        self._ids = {int(key): row for row, key in enumerate(self._planned.split.samples["key"])}
        self._check_shards()
        if self._planned.split.manifest.options.get("raw_share", 0.0):
            raise UserError(
                f"{config.shards} stores arrays (--store raw or mix), and --read sequential takes "
                "JPEGs alone; use --read planned, or --loader webdataset"
            )

    @property
    def order_hash(self) -> str:
        """``sequential-`` and a hash of what decides the order: ranks and DALI's version, too."""
        config = self._config
        facts = (config.shuffle_buffer, config.world_size, dali.__version__, super().order_hash)
        return f"sequential-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"

    def epoch(
        self, epoch: int, first_step: int = 0, image_size: int | None = None
    ) -> Generator[Batch]:
        """The batches of an epoch; ``prefetch`` of them are in work ahead of the consumer."""
        side = self.side(image_size)
        position = self._stream.first_position
        run = _Run(self._pipeline(epoch, side))
        try:
            for step, count in enumerate(self._stream.shares()):
                try:
                    images, sources = run.next()
                except RuntimeError as error:
                    raise self._failure(step, error) from error
                if step >= first_step:
                    # Behind the end of an epoch the reader begins again: a short batch is cut.
                    ids = self._ids_of(sources[:count])
                    yield self._batch(images[:count], PlannedBatch(step, position, ids))
                position += count
        finally:
            run.close()

    def _pipeline(self, epoch: int, side: int) -> Any:
        config, split = replace(self._config, image_size=side), self._planned.split
        shards = np.unique(split.samples["shard"])
        if config.shuffle:
            shards = shards[random_order(len(shards), config.seed, Purpose.SHUFFLE, epoch)]
        # A draw for each rank: with one seed all ranks would cut out the same corners.
        bits = random_bits(config.rank + 1, config.seed, Purpose.SHUFFLE, epoch)
        return define_sequential(
            config,
            self._graph_device,
            [split.directory / shard_name(split.name, shard) for shard in shards.tolist()],
            [split.directory / index_name(split.name, shard) for shard in shards.tolist()],
            seed=int(bits[config.rank] >> np.uint64(64 - SEED_BITS)),
        )

    def _batch(self, images: torch.Tensor, batch: PlannedBatch) -> Batch:
        labels, ids = self._planned.labels_and_ids(batch)
        return Batch(
            images.permute(0, 3, 1, 2).to(self._device),
            labels.to(self._device, non_blocking=True),
            ids.to(self._device, non_blocking=True),
        )

    def _ids_of(self, sources: Sequence[str]) -> Ids:
        """``.../train-000003.tar:26112:000000042.jpg``, as DALI names an image, to its id."""
        keys = (int(source.rpartition(":")[2].partition(".")[0]) for source in sources)
        return np.array([self._ids[key] for key in keys], np.int64)

    def _check_shards(self) -> None:
        """DALI's own words for a shard that is missing or too short name a line of its source."""
        split = self._planned.split
        for shard in np.unique(split.samples["shard"]).tolist():
            for name in (shard_name(split.name, shard), index_name(split.name, shard)):
                path, expected = split.directory / name, split.manifest.files[name].bytes
                size = path.stat().st_size if path.is_file() else None
                if size != expected:
                    found = "is missing" if size is None else f"has {size:,} bytes"
                    raise ShardError(
                        f"{path} {found}, the manifest says {expected:,} bytes; pack the set again"
                    )

    def _failure(self, step: int, error: RuntimeError) -> ShardError:
        split = self._planned.split
        reason = str(error).partition("encountered:")[2].split("Current pipeline")[0].strip()
        return ShardError(
            f"DALI could not read or decode an image of split {split.name} of {split.directory} "
            f"at step {step} or soon after it ({reason or error}); `python -m shards verify "
            f"{split.directory}` names it"
        )


def define_sequential(
    config: LoaderConfig,
    device: GraphDevice,
    shards: Sequence[Path],
    indexes: Sequence[Path],
    *,
    seed: int,
) -> Any:
    """A pipeline from shards to ``(B, S, S, 3)`` uint8 and the images' sources, not yet built.

    The reader opens the shards when the pipeline is built, which for ``gpu`` needs a GPU.

    Args:
        config: Sizes, strengths of the augmentation, rank and ranks.
        device: Where images are decoded and augmented.
        shards: Tars, in the order in which they are read.
        indexes: Of each of them.
        seed: Of everything that is drawn, below 2**31.
    """
    assert config.augment is not None
    pipeline = empty_pipeline(config, device, seed)
    with pipeline:
        payload = fn.readers.webdataset(
            paths=[str(path) for path in shards],
            index_paths=[str(path) for path in indexes],
            ext=["jpg"],
            missing_component_behavior="error",
            random_shuffle=config.shuffle,
            initial_fill=config.shuffle_buffer,
            shard_id=config.rank,
            num_shards=config.world_size,
            stick_to_shard=True,  # the order of the shards, and so each rank's part, is ours
            prefetch_queue_depth=config.prefetch,
            dont_use_mmap=True,  # plain reads from end to end are what such disks are good at
            lazy_init=True,
        )
        images = _augmented(payload, config.augment, config, device)
        pipeline.set_outputs(images, fn.get_property(payload, key="source_info"))
    return pipeline


def _augmented(
    payload: Any, augment: AugmentConfig, config: LoaderConfig, device: GraphDevice
) -> Any:
    """Random crop, size, colour, flip, rectangle: each drawn by DALI."""
    side = config.image_size
    images = fn.decoders.image_random_crop(
        payload,
        random_area=augment.crop_scale,
        random_aspect_ratio=augment.crop_ratio,
        num_attempts=CROP_TRIES,
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
        hw_decoder_load=config.hw_decoder_load,
        device="mixed" if device == "gpu" else "cpu",
    )
    images = fn.resize(
        images,
        size=[side, side],
        interp_type=types.INTERP_LINEAR,
        antialias=config.resample == "antialias",
        device=device,
    )
    if augment.has_color:
        images = fn.color_twist(
            images,
            brightness=_factor(augment.brightness),
            contrast=_factor(augment.contrast),
            saturation=_factor(augment.saturation) * _happens(1 - augment.grayscale_prob),
            hue=_uniform(-360 * augment.hue, 360 * augment.hue),
            device=device,
        )
    if augment.hflip_prob > 0:
        flip = fn.random.coin_flip(probability=augment.hflip_prob)
        images = fn.flip(images, horizontal=flip, vertical=0, device=device)
    if augment.erase_prob > 0:
        images = _erased(images, augment, side, device)
    return images


def _erased(images: Any, augment: AugmentConfig, side: int, device: GraphDevice) -> Any:
    """One rectangle at most, as :func:`loaders.augment.draw_transforms` draws it, not rounded."""
    area = side**2 * _uniform(*augment.erase_scale)
    low, high = (math.log(each) for each in augment.erase_ratio)
    ratio = dali.math.exp(_uniform(low, high))
    happens = _happens(augment.erase_prob)
    height = dali.math.min(dali.math.sqrt(area * ratio), float(side))
    width = dali.math.min(dali.math.sqrt(area / ratio), float(side))
    top, left = (side - height) * _uniform(0, 1), (side - width) * _uniform(0, 1)
    return fn.erase(
        images,
        anchor=fn.stack(top, left),
        shape=fn.stack(height * happens, width * happens),
        axis_names="HW",
        fill_value=ERASE_FILL,
        device=device,
    )


def _uniform(low: float, high: float) -> Any:
    return fn.random.uniform(range=[low, high]) if low < high else float(low)


def _factor(strength: float) -> Any:
    return _uniform(1 - strength, 1 + strength)


def _happens(probability: float) -> Any:
    """1.0 with a probability, else 0.0."""
    return fn.cast(fn.random.coin_flip(probability=probability), dtype=types.FLOAT)


class _Run:
    """A pipeline at work, from its first batch on."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        pipeline.build()
        pipeline.schedule_run()  # the first call fills the queue

    def next(self) -> tuple[torch.Tensor, list[str]]:
        """``(B, S, S, 3)`` owned by the caller, and where each image came from."""
        images, sources = self._pipeline.share_outputs()
        named = [bytes(np.asarray(source)).decode() for source in sources]
        owned = from_dlpack(images.as_tensor())
        self._pipeline.release_outputs()
        self._pipeline.schedule_run()
        return owned, named

    def close(self) -> None:
        """End its threads and free its memory; what was in work is dropped."""
        if sys.is_finalizing():  # DALI has ended its pipelines before the interpreter gets here
            return
        del self._pipeline
        gc.collect()  # a pipeline's graph refers to itself, and memory of the GPU cannot wait


def _check(config: LoaderConfig) -> None:
    what = "--read sequential"
    if config.augment is None:
        raise UserError(f"{what} is for training; evaluation reads by plan (--read planned)")
    check_natural(config, what)
    if str(config.subset):
        raise UserError(
            f"{what} reads all of the {config.split} split and cannot leave out what {config.subset}"
            " does; use --read planned, or --loader webdataset"
        )
    if config.batch_size % config.world_size:
        raise UserError(
            f"{what} gives all ranks as many images: batch size {config.batch_size} must be a "
            f"multiple of the {config.world_size} ranks"
        )
