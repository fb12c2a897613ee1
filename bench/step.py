"""Step speed: forward, backward and optimizer on a synthetic batch, in one variant after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from bench.request import Request
from bench.result import Result, Section, not_measured
from bench.timing import WARM_UP, Subject, in_turns, rate
from train.config import TrainConfig
from train.models import create_model
from train.optimizer import create_optimizer
from train.published import published_class_names
from train.resolve import Resolved

CPU_BATCH, GPU_BATCH = 16, 128
CLASSES = len(published_class_names())
BASIS = "fp32 NCHW"
WARM_UP_STEPS = 2
FLOP_BATCH = 2
"""Batch norm refuses to train on one image."""


class Stepper:
    """A model under training, one step at a time, as ``train.loop`` runs it."""

    def __init__(
        self, config: TrainConfig, resolved: Resolved, num_classes: int, *, channels_last: bool
    ) -> None:
        torch.manual_seed(config.seed)
        self.device = resolved.device
        self._resolved = resolved
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        model = create_model(config.arch, num_classes, config.mean, config.std)
        model = model.to(resolved.device).to(memory_format=self._format)
        model.train()
        self._network = torch.compile(model, dynamic=False) if resolved.compile else model
        self._optimizer = create_optimizer(model, config, resolved.device)
        self._scaler = torch.amp.GradScaler(
            resolved.device.type, enabled=resolved.precision == "fp16"
        )

        self.loss = torch.zeros((), device=resolved.device)
        """Of the last step, still on the device."""

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One optimizer step; returns the loss without waiting for it."""
        images = images.contiguous(memory_format=self._format)
        with self._resolved.autocast():
            loss = cross_entropy(self._network(images), labels)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self.loss = loss.detach()
        return self.loss


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the step."""

    name: str
    resolved: Resolved
    channels_last: bool


def variants(resolved: Resolved) -> list[Variant]:
    """From the plainest to what training uses here, one change at a time."""
    fp32 = replace(resolved, precision="fp32", compile=False)
    eager = replace(resolved, compile=False)
    found = [Variant(BASIS, fp32, channels_last=False)]
    if resolved.channels_last:
        found.append(Variant("fp32 channels_last", fp32, channels_last=True))
    name = f"{resolved.precision} {'channels_last' if resolved.channels_last else 'NCHW'}"
    if resolved.precision != "fp32":
        found.append(Variant(name, eager, resolved.channels_last))
    if resolved.compile:
        found.append(Variant(f"{name} compiled", resolved, resolved.channels_last))
    return found


def measure_step(request: Request, arch: str) -> Section:
    """Training images a second of each variant, with FLOPs an image and the TFLOP/s achieved.

    Raises:
        UserError: No such architecture or device.
    """
    config, resolved = request.training(arch, cpu_batch=CPU_BATCH, gpu_batch=GPU_BATCH)
    flops = flops_per_image(arch, config.image_size)
    batch = synthetic_batch(config, resolved.device)
    chosen = variants(resolved)
    out_of_memory: set[str] = set()
    subjects = [_subject(each, config, batch, request, out_of_memory) for each in chosen]
    values = in_turns(subjects, request.repeats, "step", request.budget_s)
    results = tuple(
        not_measured(name, f"out of memory at batch {config.batch_size}")
        if name in out_of_memory
        else _result(name, repeats, flops)
        for name, repeats in values.items()
    )
    notes = ["fp32 multiplies in TF32, as training does"] if resolved.device.type == "cuda" else []
    return Section(
        name="step",
        title=(
            f"step: {arch}, {config.image_size} px, batch {config.batch_size}, "
            f"{CLASSES} classes, {resolved.device}, synthetic batch, "
            f"{flops / 1e9:.1f} GFLOP an image (forward and backward)"
        ),
        results=results,
        reference=BASIS,
        settings={
            "arch": arch,
            "image_size": config.image_size,
            "batch_size": config.batch_size,
            "classes": CLASSES,
            "flops_per_image": flops,
            **resolved.to_dict(),
        },
        notes=tuple(notes),
    )


def flops_per_image(arch: str, image_size: int) -> int:
    """Floating-point operations of forward and backward, by torch's own counter.

    Counts matrix products and convolutions, a multiplication and an addition as two; runs on
    tensors without data.
    """
    with torch.device("meta"):
        model = create_model(arch, CLASSES, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        images = torch.zeros(FLOP_BATCH, 3, image_size, image_size, dtype=torch.uint8)
        labels = torch.zeros(FLOP_BATCH, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops()) // FLOP_BATCH


def synthetic_batch(
    config: TrainConfig, device: torch.device, num_classes: int = CLASSES
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random bytes and labels, already on the device."""
    generator = torch.Generator().manual_seed(config.seed)
    shape = (config.batch_size, config.image_size, config.image_size, 3)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(num_classes, (config.batch_size,), generator=generator)
    return images.to(device).permute(0, 3, 1, 2), labels.to(device)


def _subject(
    variant: Variant,
    config: TrainConfig,
    batch: tuple[torch.Tensor, torch.Tensor],
    request: Request,
    out_of_memory: set[str],
) -> Subject:
    stepper: Stepper | None = None
    images = batch[0].contiguous(
        memory_format=torch.channels_last if variant.channels_last else torch.contiguous_format
    )

    def steps() -> Iterator[int]:
        assert stepper is not None
        while True:
            stepper.step(images, batch[1])
            yield config.batch_size

    def block(repeat: int) -> float:
        nonlocal stepper
        if variant.name in out_of_memory:
            return 0.0
        try:
            if repeat == WARM_UP:
                stepper = Stepper(
                    config, variant.resolved, CLASSES, channels_last=variant.channels_last
                )
                for _ in range(WARM_UP_STEPS):
                    stepper.step(images, batch[1])
                return 0.0
            return rate(steps(), min_s=request.block_s, device=variant.resolved.device)
        except torch.OutOfMemoryError:
            out_of_memory.add(variant.name)
            stepper = None
            return 0.0

    return Subject(variant.name, block)


def _result(name: str, repeats: tuple[float, ...], flops: int) -> Result:
    result = Result(name=name, repeats=repeats)
    assert result.median is not None
    achieved = result.median * flops / 1e12
    return replace(
        result, note=f"{achieved:.3g} TFLOP/s", details={"achieved_tflop_per_s": achieved}
    )
