"""Step speed: forward, backward and optimizer on a synthetic batch, in one variant after another.

Beside them in the same turns: products of large matrices, the most that the device can do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bench.machine_rates import matrix_name, matrix_subject
from bench.operations import CLASSES, flops_per_image
from bench.request import Request
from bench.result import Result, Section, not_measured
from bench.timing import WARM_UP, Subject, in_turns, rate
from train.config.config import TrainConfig
from train.config.resolve import Resolved
from train.method.models import create_model
from train.method.optimizer import create_optimizer

CPU_BATCH, GPU_BATCH = 16, 128
BASIS = "fp32 NCHW"
WARM_UP_STEPS = 2


class Stepper:
    """A model under training, one step at a time, as ``train.engine.loop`` runs it."""

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
        self.network: nn.Module = model
        if resolved.compile:
            self.network = cast(
                "nn.Module", torch.compile(model, dynamic=False, mode=resolved.compile_mode)
            )
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
            loss = cross_entropy(self.network(images), labels)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self.loss = loss.detach()
        return self.loss

    def forget_gradients(self) -> None:
        """Let go of what a backward pass left."""
        self._optimizer.zero_grad(set_to_none=True)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run the step."""

    name: str
    resolved: Resolved
    channels_last: bool


def variants(resolved: Resolved) -> list[Variant]:
    """From the plainest to what training uses here, one change at a time."""
    fp32 = replace(resolved, precision="fp32", compile=False)
    steps = [(fp32, False), (fp32, resolved.channels_last)]
    steps += [(replace(resolved, compile=False), resolved.channels_last)]
    steps += [(resolved, resolved.channels_last)]
    found = [_variant(each, channels_last) for each, channels_last in steps]
    return list({each.name: each for each in found}.values())


def every_variant(
    resolved: Resolved,
    precisions: Sequence[str] = (),
    formats: Sequence[bool] = (),
    compiled: Sequence[bool] = (),
) -> list[Variant]:
    """All combinations of what is given; where nothing is, what training uses here.

    Args:
        resolved: What training uses here.
        precisions: ``fp32``, ``bf16``, ``fp16``.
        formats: Whether the memory is channels_last.
        compiled: Whether ``torch.compile`` is used.
    """
    if not (precisions or formats or compiled):
        return variants(resolved)
    return [
        _variant(replace(resolved, precision=precision, compile=compile_), channels_last)
        for precision, channels_last, compile_ in product(
            precisions or [resolved.precision],
            formats or [resolved.channels_last],
            compiled or [resolved.compile],
        )
    ]


def _variant(resolved: Resolved, channels_last: bool) -> Variant:
    name = f"{resolved.precision} {'channels_last' if channels_last else 'NCHW'}"
    return Variant(f"{name} compiled" if resolved.compile else name, resolved, channels_last)


def measure_step(
    request: Request,
    arch: str,
    precisions: Sequence[str] = (),
    formats: Sequence[bool] = (),
    compiled: Sequence[bool] = (),
) -> Section:
    """Training images a second of each variant, with FLOPs an image and the TFLOP/s achieved.

    Args:
        request: Image size, batch size, device, threads, repeats.
        arch: Of torchvision.
        precisions: As of :func:`every_variant`, like the two after it.
        formats: Likewise.
        compiled: Likewise.

    Raises:
        UserError: No such architecture or device.
    """
    config, resolved = request.training(arch, cpu_batch=CPU_BATCH, gpu_batch=GPU_BATCH)
    flops = flops_per_image(arch, config.image_size)
    batch = synthetic_batch(config, resolved.device)
    asked = every_variant(resolved, precisions, formats, compiled)
    chosen = [each for each in asked if _obstacle(each.resolved) is None]
    steps = [StepSubject(each, config, batch, request.block_s) for each in chosen]
    matrices = [
        matrix_subject(resolved.device, precision, request.block_s)
        for precision in dict.fromkeys(each.resolved.precision for each in chosen)
    ]
    subjects = [Subject(each.variant.name, each.block) for each in steps]
    values = in_turns([*subjects, *matrices], request.repeats, "step", request.budget_s)
    rates = {
        each.name: Result(
            name=each.name,
            repeats=tuple(value / 1e12 for value in values[each.name]),
            unit="TFLOP/s",
            note=each.note,
        )
        for each in matrices
    }
    measured = {
        each.variant.name: not_measured(
            each.variant.name, f"out of memory at batch {config.batch_size}"
        )
        if each.out_of_memory
        else _result(each, values[each.variant.name], flops, rates)
        for each in steps
    }
    results = [
        measured.get(each.name) or not_measured(each.name, str(_obstacle(each.resolved)))
        for each in asked
    ]
    return Section(
        name="step",
        title=(
            f"step: {arch}, {config.image_size} px, batch {config.batch_size}, "
            f"{CLASSES} classes, {resolved.device}, synthetic batch, "
            f"{flops / 1e9:.1f} GFLOP an image (forward and backward)"
        ),
        results=(*results, *rates.values()),
        reference=chosen[0].name if chosen else None,
        settings={
            "arch": arch,
            "image_size": config.image_size,
            "batch_size": config.batch_size,
            "classes": CLASSES,
            "flops_per_image": flops,
            **resolved.to_dict(),
        },
        notes=(device_note(resolved.device),),
    )


def device_note(device: torch.device) -> str:
    """What a reader has to know about timing here; without a GPU, what is missing."""
    if device.type == "cuda":
        return "timed by CUDA events; fp32 multiplies in TF32, as training does"
    return "no GPU: timed by the host's clock; fp16, TF32 and peak memory need one"


def _obstacle(resolved: Resolved) -> str | None:
    """Why a step cannot run here; None if it can."""
    return (
        "fp16 needs a GPU"
        if resolved.precision == "fp16" and resolved.device.type == "cpu"
        else None
    )


def synthetic_batch(
    config: TrainConfig, device: torch.device, num_classes: int = CLASSES
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random bytes and labels, already on the device."""
    generator = torch.Generator().manual_seed(config.seed)
    shape = (config.batch_size, config.image_size, config.image_size, 3)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(num_classes, (config.batch_size,), generator=generator)
    return images.to(device).permute(0, 3, 1, 2), labels.to(device)


def step_subject(
    name: str,
    training: tuple[TrainConfig, Resolved],
    batch: tuple[torch.Tensor, torch.Tensor],
    block_s: float,
) -> StepSubject:
    """Times the step as training runs it here."""
    config, resolved = training
    variant = replace(_variant(resolved, resolved.channels_last), name=name)
    return StepSubject(variant, config, batch, block_s)


class StepSubject:
    """Blocks of steps of one variant; remembers whether its memory sufficed."""

    def __init__(
        self,
        variant: Variant,
        config: TrainConfig,
        batch: tuple[torch.Tensor, torch.Tensor],
        block_s: float,
    ) -> None:
        self.variant = variant
        self.out_of_memory = False
        self.peak_memory_gib: float | None = None
        """Largest that tensors took; None but on CUDA."""
        self._config, self._block_s = config, block_s
        self._labels = batch[1]
        self._images = batch[0].contiguous(
            memory_format=torch.channels_last if variant.channels_last else torch.contiguous_format
        )
        self._stepper: Stepper | None = None

    def block(self, repeat: int) -> float:
        """Images a second, 0 where the memory does not suffice."""
        device = self.variant.resolved.device
        if self.out_of_memory:
            return 0.0
        try:
            if repeat == WARM_UP:
                self._begin(device)
                return 0.0
            return rate(self._steps(), min_s=self._block_s, device=device)
        except torch.OutOfMemoryError:
            self.out_of_memory = True
            self._stepper = None
            return 0.0

    def _begin(self, device: torch.device) -> None:
        if device.type == "cuda":
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
        self._stepper = Stepper(
            self._config,
            self.variant.resolved,
            CLASSES,
            channels_last=self.variant.channels_last,
        )
        for _ in range(WARM_UP_STEPS):
            self._stepper.step(self._images, self._labels)
        if device.type == "cuda":
            # Of this variant alone: the others wait in memory meanwhile.
            peak = torch.cuda.max_memory_allocated(device) - before
            self.peak_memory_gib = peak / 2**30

    def _steps(self) -> Iterator[int]:
        assert self._stepper is not None
        while True:
            self._stepper.step(self._images, self._labels)
            yield self._config.batch_size


def _result(
    subject: StepSubject, repeats: tuple[float, ...], flops: int, rates: dict[str, Result]
) -> Result:
    result = Result(name=subject.variant.name, repeats=repeats)
    matrix = rates[matrix_name(subject.variant.resolved.precision)]
    assert result.median is not None
    assert matrix.median is not None
    achieved = result.median * flops / 1e12
    details: dict[str, Any] = {
        "achieved_tflop_per_s": achieved,
        "of_matrix_rate": achieved / matrix.median,
    }
    note = f"{achieved:.3g} TFLOP/s, {achieved / matrix.median:.0%} of {matrix.name}"
    if subject.peak_memory_gib is not None:
        details["peak_memory_gib"] = subject.peak_memory_gib
        note += f", peak memory {subject.peak_memory_gib:.1f} GiB"
    return replace(result, note=note, details=details)
