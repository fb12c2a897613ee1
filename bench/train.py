"""Whole epochs as a run has them: steps over every image, then the evaluation of val."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice

from bench.end_to_end import run_window, upscaling_note
from bench.request import Request, fitting_batch, images_per_epoch
from bench.result import Result, Section
from bench.step import CPU_BATCH, GPU_BATCH, WARM_UP_STEPS, Stepper
from bench.timing import synchronize
from loaders.batch import Loader
from shards.format import Manifest
from train.batches import eval_loader, train_loader
from train.evaluation import evaluate
from train.resolve import Resolved

STEPS, WITH_VAL, VAL = "epoch, steps alone", "epoch, with validation", "validation"
WAIT = "data wait"


@dataclass(frozen=True, slots=True)
class Epoch:
    """How long one epoch took."""

    images: int
    train_s: float
    wait: float
    """Share of the steps' time spent waiting for the loader."""
    val_images: int
    val_s: float


def measure_train(request: Request, arch: str, epoch_size: int | None = None) -> Section:
    """Images a second over whole epochs, with and without validation.

    Args:
        request: Shards, image size, batch size, device, threads; an epoch is a repeat.
        arch: Of torchvision.
        epoch_size: Training images an epoch; by default one pass over the rows.

    Raises:
        UserError: No such architecture or device, or the epoch does not fit.
        ShardError: The shard set is missing or damaged.
    """
    config, resolved = request.training(arch, cpu_batch=CPU_BATCH, gpu_batch=GPU_BATCH)
    images = epoch_size or images_per_epoch(request.shards)
    batch_size = fitting_batch(config.batch_size, images, WARM_UP_STEPS)
    config = replace(config, batch_size=batch_size, epoch_size=epoch_size)
    manifest = Manifest.read(request.shards)
    with ExitStack() as stack:
        train = train_loader(config, resolved, request.shards)
        stack.callback(train.close)
        val = eval_loader(config, resolved, request.shards, "val")
        stack.callback(val.close)
        stepper = Stepper(
            config, resolved, manifest.num_classes, channels_last=resolved.channels_last
        )
        with closing(train.epoch(0)) as batches:  # compiles, fills caches
            for batch in islice(batches, WARM_UP_STEPS):
                stepper.step(batch.images, batch.labels)
        pad_to = batch_size if resolved.compile else None
        epochs = [
            _epoch(number, train, val, stepper, resolved, manifest.num_classes, pad_to)
            for number in range(1, request.repeats + 1)
        ]
    return Section(
        name="train",
        title=(
            f"train: {arch}, {config.image_size} px, batch {batch_size}, {resolved.precision}"
            f"{' compiled' if resolved.compile else ''} on {resolved.device}, loader "
            f"{resolved.loader} with {resolved.threads} threads ({config.resample}), epochs of "
            f"{epochs[0].images:,} images and {epochs[0].val_images:,} of val, {request.shards}"
        ),
        results=(
            Result(name=STEPS, repeats=tuple(each.images / each.train_s for each in epochs)),
            Result(
                name=WITH_VAL,
                repeats=tuple(each.images / (each.train_s + each.val_s) for each in epochs),
                note="training images over the whole time",
            ),
            Result(name=VAL, repeats=tuple(each.val_images / each.val_s for each in epochs)),
            Result(name=WAIT, unit="share", repeats=tuple(each.wait for each in epochs)),
        ),
        reference=STEPS,
        settings={
            "arch": arch,
            "image_size": config.image_size,
            "batch_size": batch_size,
            "shards": str(request.shards),
            "images": epochs[0].images,
            "val_images": epochs[0].val_images,
            **resolved.to_dict(),
        },
        notes=upscaling_note(config.image_size, manifest),
    )


def _epoch(
    number: int,
    train: Loader,
    val: Loader,
    stepper: Stepper,
    resolved: Resolved,
    num_classes: int,
    pad_to: int | None,
) -> Epoch:
    stepper.network.train()
    start = time.perf_counter()
    with closing(train.epoch(number)) as batches:
        window = run_window(stepper, batches, min_s=float("inf"))
    synchronize(resolved.device)
    train_s = time.perf_counter() - start
    evaluation = evaluate(stepper.network, val, resolved, num_classes, pad_to=pad_to)
    return Epoch(
        images=train.samples_per_epoch,
        train_s=train_s,
        wait=window.wait,
        val_images=evaluation.images,
        val_s=evaluation.seconds,
    )
