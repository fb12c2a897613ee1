"""Loader and step together: a few real training steps, beside the same steps on synthetic data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import torch

from bench.request import Request, fitting_batch, images_per_epoch
from bench.result import Result, Section
from bench.step import GPU_BATCH, WARM_UP_STEPS, Stepper
from bench.timing import WARM_UP, Subject, in_turns, rate
from loaders.batch import Batch, Loader
from shards.format import Manifest
from train.method.batches import train_loader

STEP, TOGETHER, WAIT = "step on a synthetic batch", "loader and step", "data wait"
CPU_BATCH = 8
"""The recipe's 128 images take a CPU a minute a step at 384 px."""
MIN_STEPS = 2
REFILL_STEPS = 1
"""Steps at the start of a block, while the loader gets ahead again as it is in mid-epoch."""


class Training(Protocol):
    """Something that takes batches: :class:`~bench.step.Stepper`, or a stand-in for it."""

    device: torch.device

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> object:
        """One step, without waiting for the device."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """Some steps in a row."""

    images_per_s: float
    wait: float
    """Share of the time spent waiting for the loader."""


def run_window(
    stepper: Training, batches: Iterator[Batch], *, min_s: float, min_steps: int = MIN_STEPS
) -> Window:
    """Train on the next batches for at least ``min_s`` seconds and ``min_steps`` steps."""
    waited = 0.0

    def steps() -> Iterator[int]:
        nonlocal waited
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                return
            stepper.step(batch.images, batch.labels)
            yield len(batch)

    start = time.perf_counter()
    images_per_s = rate(steps(), min_s=min_s, device=stepper.device, round_to=min_steps)
    return Window(images_per_s, waited / (time.perf_counter() - start))


def measure_end_to_end(request: Request, arch: str) -> Section:
    """Training images a second as a run would have them, and the share that waits for data.

    Raises:
        UserError: No such architecture or device.
        ShardError: The shard set is missing or damaged.
    """
    config, resolved = request.training(arch, cpu_batch=CPU_BATCH, gpu_batch=GPU_BATCH)
    images = images_per_epoch(request.shards)
    batch_size = fitting_batch(config.batch_size, images, WARM_UP_STEPS + MIN_STEPS)
    config = replace(config, batch_size=batch_size)
    manifest = Manifest.read(request.shards)
    waits: list[float] = []
    with ExitStack() as stack:
        real = train_loader(config, resolved, request.shards)
        stack.callback(real.close)
        synthetic = train_loader(config, replace(resolved, loader="synthetic"), request.shards)
        stack.callback(synthetic.close)
        stepper = Stepper(
            config, resolved, manifest.num_classes, channels_last=resolved.channels_last
        )
        subjects = [
            training_subject(STEP, synthetic, stepper, request, []),
            training_subject(TOGETHER, real, stepper, request, waits),
        ]
        values = in_turns(subjects, request.repeats, "end to end", request.budget_s)
    return Section(
        name="end_to_end",
        title=(
            f"end to end: {arch}, {config.image_size} px, batch {batch_size}, "
            f"{resolved.precision}{' compiled' if resolved.compile else ''} on {resolved.device}, "
            f"loader {resolved.loader} with {resolved.threads} threads ({config.resample}), "
            f"{request.shards}"
        ),
        results=(
            Result(name=STEP, repeats=values[STEP]),
            Result(name=TOGETHER, repeats=values[TOGETHER]),
            Result(name=WAIT, repeats=tuple(waits), unit="share", note="of the time"),
        ),
        reference=STEP,
        settings={
            "arch": arch,
            "image_size": config.image_size,
            "batch_size": batch_size,
            "shards": str(request.shards),
            **resolved.to_dict(),
        },
        notes=upscaling_note(config.image_size, manifest),
    )


def training_subject(
    name: str, loader: Loader, stepper: Training, request: Request, waits: list[float]
) -> Subject:
    """Times training on a loader's batches; ``waits`` gets the share of each repeat spent waiting."""

    def block(repeat: int) -> float:
        with closing(loader.epoch(repeat + 1)) as batches:
            for batch in islice(batches, WARM_UP_STEPS if repeat == WARM_UP else REFILL_STEPS):
                stepper.step(batch.images, batch.labels)
            if repeat == WARM_UP:
                return 0.0
            window = run_window(stepper, batches, min_s=request.block_s)
            waits.append(window.wait)
            return window.images_per_s

    return Subject(name, block)


def upscaling_note(image_size: int, manifest: Manifest) -> tuple[str, ...]:
    """A warning where the stored photographs are smaller than what is made of them."""
    stored = manifest.options.get("short_side", image_size)
    if image_size <= stored:
        return ()
    return (f"the shards store a shorter side of {stored} px, less than the {image_size} px asked",)
