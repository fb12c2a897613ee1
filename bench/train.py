"""Whole epochs of real runs, beside what their loader and their step predict of them.

A turn is a block of the loader alone, a block of the step alone, and a run of one epoch as
``python -m train`` makes it, with all that belongs to it: schedule, finite check, log, evaluation.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

from bench.end_to_end import STEP, training_subject, upscaling_note
from bench.ladder import NoStep
from bench.request import Request, fitting_batch, images_per_epoch
from bench.result import Result, Section
from bench.step import CPU_BATCH, GPU_BATCH, WARM_UP_STEPS, Stepper
from bench.timing import WARM_UP
from bench.verdict import shared_cores, side_by_side
from shards.errors import Interrupted
from shards.format import Manifest
from shards.progress import Progress
from train.config.config import TrainConfig
from train.engine.run import start_run
from train.method.batches import count_eval_images, train_loader
from train.runs.log import METRICS

LOADER = "loader"
STEPS, WITH_VAL, VAL = "epoch, steps alone", "epoch, with validation", "validation"
MODEL, OF_MODEL = "model", "epoch / model"
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
    """Images a second over whole epochs, with and without validation, and what was to be expected.

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
    config = replace(config, batch_size=batch_size, epoch_size=epoch_size, epochs=1)
    manifest = Manifest.read(request.shards)
    epochs: list[Epoch] = []
    blocks: dict[str, list[float]] = {LOADER: [], STEP: []}
    with ExitStack() as stack:
        endless = replace(config, epoch_size=None)  # blocks may be longer than epochs
        loader = train_loader(endless, resolved, request.shards)
        stack.callback(loader.close)
        synthetic = train_loader(endless, replace(resolved, loader="synthetic"), request.shards)
        stack.callback(synthetic.close)
        stepper = Stepper(
            config, resolved, manifest.num_classes, channels_last=resolved.channels_last
        )
        subjects = [
            training_subject(LOADER, loader, NoStep(resolved.device), request, []),
            training_subject(STEP, synthetic, stepper, request, []),
        ]
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hyphae-bench-train-"))
        progress = stack.enter_context(Progress("train", 1 + request.repeats, "turns"))
        for repeat in range(WARM_UP, request.repeats):
            for subject in subjects:
                value = subject.block(repeat)
                if repeat != WARM_UP:
                    blocks[subject.name].append(value)
            if repeat != WARM_UP:  # a run warms up by itself: it estimates its time first
                epochs.append(_run_epoch(config, request.shards, Path(folder) / str(repeat)))
            progress.update(1)
    return Section(
        name="train",
        title=(
            f"train: {arch}, {config.image_size} px, batch {batch_size}, {resolved.precision}"
            f"{' compiled' if resolved.compile else ''} on {resolved.device}, loader "
            f"{resolved.loader} with {resolved.threads} threads ({config.resample}), epochs of "
            f"{epochs[0].images:,} images and {epochs[0].val_images:,} of val, {request.shards}"
        ),
        results=_results(epochs, blocks, sharing=resolved.device.type == "cpu"),
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


def _results(
    epochs: list[Epoch], blocks: dict[str, list[float]], *, sharing: bool
) -> tuple[Result, ...]:
    steps = [each.images / each.train_s for each in epochs]
    expect = shared_cores if sharing else side_by_side
    model = [expect(*pair) for pair in zip(blocks[LOADER], blocks[STEP], strict=True)]
    return (
        Result(name=LOADER, repeats=tuple(blocks[LOADER])),
        Result(name=STEP, repeats=tuple(blocks[STEP])),
        Result(
            name=MODEL,
            repeats=tuple(model),
            measured=False,
            note="1 / (1/loader + 1/step): both on the CPU" if sharing else "the slower one",
        ),
        Result(name=STEPS, repeats=tuple(steps)),
        Result(
            name=OF_MODEL,
            unit="share",
            repeats=tuple(a / b for a, b in zip(steps, model, strict=True)),
            measured=False,
            note="turn by turn",
        ),
        Result(
            name=WITH_VAL,
            repeats=tuple(each.images / (each.train_s + each.val_s) for each in epochs),
            note="training images over the whole time",
        ),
        Result(name=VAL, repeats=tuple(each.val_images / each.val_s for each in epochs)),
        Result(name=WAIT, unit="share", repeats=tuple(each.wait for each in epochs)),
    )


def _run_epoch(config: TrainConfig, shards: Path, folder: Path) -> Epoch:
    """A run of one epoch, and what its own log says of it."""
    try:
        with redirect_stdout(StringIO()):
            start_run(config, shards, folder)
    except Interrupted as stop:  # what it says of going on is not true of a folder that goes away
        raise Interrupted("stopped; nothing was written", stop.exit_code) from None
    values = json.loads((folder / METRICS).read_text(encoding="utf-8").splitlines()[-1])
    images = int(values["samples_seen"])
    return Epoch(
        images=images,
        train_s=images / values["train/images_per_s"],
        wait=values["train/data_wait"],
        val_images=count_eval_images(config, shards, "val"),
        val_s=values["val/seconds"],
    )
