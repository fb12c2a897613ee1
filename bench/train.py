"""Whole epochs of the training loop itself, beside what its loader and its step predict of it.

A turn is a block of the loader alone, a block of the step alone, and an epoch of ``train.loop`` with
all that belongs to it (schedule, clipping, finite check, log), then the evaluation of val.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import torch

from bench.end_to_end import STEP, training_subject, upscaling_note
from bench.ladder import NoStep
from bench.request import Request, fitting_batch, images_per_epoch
from bench.result import Result, Section
from bench.step import CPU_BATCH, GPU_BATCH, WARM_UP_STEPS, Stepper
from bench.timing import WARM_UP
from bench.verdict import shared_cores, side_by_side
from shards.format import Manifest
from shards.progress import Progress
from train.batches import eval_loader, train_loader
from train.checkpoint import Progressed
from train.config import TrainConfig
from train.evaluation import evaluate, prepare_model
from train.interrupt import StopRequest
from train.log import RunLog
from train.loop import Session, train_epoch
from train.models import create_model
from train.optimizer import create_optimizer
from train.resolve import Resolved

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
    config = replace(config, batch_size=batch_size, epoch_size=epoch_size)
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
        session = _session(config, resolved, manifest, request.shards, stack)
        progress = stack.enter_context(Progress("train", 1 + request.repeats, "turns"))
        for repeat in range(WARM_UP, request.repeats):
            for subject in subjects:
                value = subject.block(repeat)
                if repeat != WARM_UP:
                    blocks[subject.name].append(value)
            epoch = _epoch(session)
            if repeat != WARM_UP:
                epochs.append(epoch)
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
            note=f"{'1 / (1/loader + 1/step): both on the CPU' if sharing else 'the slower one'}",
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


def _session(
    config: TrainConfig,
    resolved: Resolved,
    manifest: Manifest,
    shards: Path,
    stack: ExitStack,
) -> Session:
    """What ``train.run`` makes of a configuration, in a folder that goes away."""
    train = train_loader(config, resolved, shards)
    stack.callback(train.close)
    val = eval_loader(config, resolved, shards, "val")
    stack.callback(val.close)
    torch.manual_seed(config.seed)
    model = create_model(config.arch, manifest.num_classes, config.mean, config.std)
    network: torch.nn.Module = prepare_model(model, resolved)
    if resolved.compile:
        network = torch.compile(network, dynamic=False, mode=resolved.compile_mode)  # type: ignore[assignment]
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hyphae-bench-train-")))
    return Session(
        config=config,
        resolved=resolved,
        model=model,
        network=network,
        optimizer=create_optimizer(model, config, resolved.device),
        scaler=torch.amp.GradScaler(resolved.device.type, enabled=resolved.precision == "fp16"),
        train=train,
        val=val,
        num_classes=manifest.num_classes,
        log=stack.enter_context(closing(RunLog(folder))),
        stop=StopRequest(),  # not entered: a signal ends this at once
        facts={"class_names": list(manifest.class_names)},
    )


def _epoch(session: Session) -> Epoch:
    """One more epoch and evaluation; nothing is said, nothing saved."""
    with redirect_stdout(StringIO()):
        train_epoch(session)
    done = session.done
    train_s, wait_s = done.train_s, done.wait_s
    # The schedule and the order of an epoch beyond the last would be none.
    epoch = (done.epoch + 1) % session.config.epochs
    session.done = Progressed(epoch=epoch, samples_seen=done.samples_seen)
    evaluation = evaluate(
        session.network,
        session.val,
        session.resolved,
        session.num_classes,
        pad_to=session.config.batch_size if session.resolved.compile else None,
        keep_outputs=True,
    )
    return Epoch(
        images=session.train.samples_per_epoch,
        train_s=train_s,
        wait=wait_s / train_s,
        val_images=evaluation.images,
        val_s=evaluation.seconds,
    )
