"""The ladder: one image's way from the disk into the weights, each rung in images a second.

Every rung of the loader includes those below it; the step stands on data that are there already;
end to end is both. All rungs take turns over the same photographs.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace

import torch

from bench.bars import log_bars
from bench.end_to_end import (
    CPU_BATCH,
    MIN_STEPS,
    STEP,
    Training,
    training_subject,
    upscaling_note,
)
from bench.request import Request, fitting_batch, images_per_epoch
from bench.result import (
    NOT_MEASURED,
    Result,
    Section,
    figure,
    interval,
    not_measured,
    number,
    share_of,
    text_table,
    unsteady,
)
from bench.rungs import AUGMENT, COLD, DECODE, WARM, BareRungs
from bench.step import GPU_BATCH, WARM_UP_STEPS, Stepper
from bench.timing import Subject, in_turns
from bench.verdict import (
    BATCH,
    COPY,
    NAMES,
    Circumstances,
    advice,
    image_times,
    limit,
    loader_rate,
    shared_cores,
    side_by_side,
)
from loaders.config import LoaderConfig, Resample
from shards.format import Manifest
from shards.machine import allowed_cores
from train.config.config import TrainConfig
from train.config.device import cpu_supports_bf16
from train.config.recipes import create_recipe
from train.config.resolve import Resolved
from train.method.batches import train_loader

NO_MODEL = "none"
TOGETHER = "end to end"
SHARED, BESIDE = "model: shared cores", "model: side by side"
RUNGS = (COLD, WARM, DECODE, AUGMENT, BATCH, COPY, STEP, TOGETHER)


class NoStep:
    """A step that does nothing: what remains is the loader."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Takes the batch and lets it go."""


def measure_ladder(request: Request, arch: str, resample: Resample) -> Section:
    """Every rung, the two models of end to end, and what they say.

    Args:
        request: Shards, image size, batch size, threads, device, repeats.
        arch: Of torchvision; :data:`NO_MODEL` for the loader alone.
        resample: Of training images.

    Raises:
        UserError: No such architecture or device.
        ShardError: The shard set is missing or damaged.
    """
    known = "resnet18" if arch == NO_MODEL else arch
    config, resolved = request.training(known, cpu_batch=CPU_BATCH, gpu_batch=GPU_BATCH)
    batch_size = fitting_batch(
        config.batch_size, images_per_epoch(request.shards), WARM_UP_STEPS + MIN_STEPS
    )
    config = replace(config, batch_size=batch_size, resample=resample)
    manifest = Manifest.read(request.shards)
    with ExitStack() as stack:
        bare = stack.enter_context(BareRungs(_bare_config(config, resolved, request)))
        cold = _cold(bare, request)
        subjects, missing = _loader_subjects(bare, config, resolved, request, stack)
        step: Training = NoStep(resolved.device)
        if arch == NO_MODEL:
            missing[STEP] = "no model"
        else:
            synthetic = train_loader(config, replace(resolved, loader="synthetic"), request.shards)
            stack.callback(synthetic.close)
            step = Stepper(
                config, resolved, manifest.num_classes, channels_last=resolved.channels_last
            )
            subjects.append(training_subject(STEP, synthetic, step, request, []))
        loader = train_loader(config, resolved, request.shards)
        stack.callback(loader.close)
        subjects.append(training_subject(TOGETHER, loader, step, request, []))
        values = in_turns(subjects, request.repeats, "ladder", request.budget_s)
    measured = {name: Result(name=name, repeats=each) for name, each in values.items()}
    found = (
        measured | {COLD: cold} | {name: not_measured(name, why) for name, why in missing.items()}
    )
    return _section(tuple(found[name] for name in RUNGS), arch, config, resolved, manifest, request)


def _bare_config(config: TrainConfig, resolved: Resolved, request: Request) -> LoaderConfig:
    """What ``train.method.batches.train_loader`` asks of the ``opencv`` loader."""
    return LoaderConfig(
        shards=request.shards,
        batch_size=config.batch_size,
        seed=config.seed,
        image_size=config.image_size,
        augment=config.augment,
        resample=config.resample,
        threads=resolved.threads,
        verify="never",  # as in every epoch but the first
    )


def _cold(bare: BareRungs, request: Request) -> Result:
    bare.cold_rate(0)  # file tables, and threads to begin with
    rates = [bare.cold_rate(repeat + 1) for repeat in range(request.repeats)]
    found = tuple(each for each in rates if each is not None)
    if not found:
        return not_measured(COLD, "the system keeps these files in memory, or does not say")
    return Result(name=COLD, repeats=found, note="one read a photograph, none ahead")


def _loader_subjects(
    bare: BareRungs,
    config: TrainConfig,
    resolved: Resolved,
    request: Request,
    stack: ExitStack,
) -> tuple[list[Subject], dict[str, str]]:
    """The rungs of the loader, and those that it does not have with the reason."""
    subjects = bare.warm_subjects(request.block_s)
    missing: dict[str, str] = {}
    cpu = torch.device("cpu")

    def add(name: str, resolved: Resolved) -> None:
        loader = train_loader(config, resolved, request.shards)
        stack.callback(loader.close)
        subjects.append(training_subject(name, loader, NoStep(resolved.device), request, []))

    if resolved.loader == "opencv":
        add(BATCH, replace(resolved, device=cpu))
    else:
        del subjects[1:]
        why = f"{resolved.loader} does all of it in one pipeline"
        missing |= dict.fromkeys((DECODE, AUGMENT), why)
        if resolved.device.type == "cpu":
            add(BATCH, resolved)
        else:
            missing[BATCH] = why
    if resolved.device.type == "cpu":
        missing[COPY] = "no GPU: the batch stays where it is"
    else:
        add(COPY, resolved)
    return subjects, missing


def _section(
    results: tuple[Result, ...],
    arch: str,
    config: TrainConfig,
    resolved: Resolved,
    manifest: Manifest,
    request: Request,
) -> Section:
    sharing = resolved.device.type == "cpu"
    rates = {each.name: each.median for each in results}
    models = _models(results)
    times = image_times(rates)
    at = Circumstances(
        device=resolved.device.type,
        loader=resolved.loader,
        threads=resolved.threads,
        cores=allowed_cores(),
        image_size=config.image_size,
        resample=config.resample,
        stored=manifest.options,
        precision=resolved.precision,
        compiled=resolved.compile,
        cpu_has_bf16=cpu_supports_bf16(),
    )
    stage = limit(times, sharing=sharing)
    step = rates[STEP]
    return Section(
        name="ladder",
        title=(
            f"ladder: {'no model' if arch == NO_MODEL else arch}, {config.image_size} px, batch "
            f"{config.batch_size}, {resolved.precision}{' compiled' if resolved.compile else ''} on "
            f"{resolved.device}, loader {resolved.loader} with {resolved.threads} threads "
            f"({config.resample}), {request.shards}"
        ),
        results=(*results, *models),
        settings={
            "arch": arch,
            "image_size": config.image_size,
            "batch_size": config.batch_size,
            "resample": config.resample,
            "shards": str(request.shards),
            **resolved.to_dict(),
            "image_ms": {name: 1000 * seconds for name, seconds in times.items()},
            "limit": stage,
            "option": advice(stage, at),
            "model": SHARED if sharing else BESIDE,
            "cores_to_feed_the_step": (
                None if step is None else step * resolved.threads / loader_rate(rates)
            ),
        },
        notes=upscaling_note(config.image_size, manifest) + _recipe_note(config),
    )


def _recipe_note(config: TrainConfig) -> tuple[str, ...]:
    theirs = create_recipe(config.recipe).resample
    if theirs == config.resample:
        return ()
    return (
        f"recipe {config.recipe} resamples with {theirs}: measure that with --resample {theirs}",
    )


def _models(results: tuple[Result, ...]) -> tuple[Result, Result]:
    """What loader and step alone say of end to end, turn by turn."""
    found = {each.name: each.repeats for each in results}
    loads = found[COPY] or found[BATCH]
    steps: tuple[float | None, ...] = found[STEP] or (None,) * len(loads)
    pairs = list(zip(loads, steps, strict=True))
    return (
        Result(
            name=SHARED,
            repeats=tuple(shared_cores(*pair) for pair in pairs),
            measured=False,
            note="the times of loader and step added up: both on the CPU",
        ),
        Result(
            name=BESIDE,
            repeats=tuple(side_by_side(*pair) for pair in pairs),
            measured=False,
            note="the slower of the two: the step on a device of its own",
        ),
    )


def render_ladder(section: Section) -> str:
    """The rungs as a table and as bars, and what they say in sentences."""
    header = ["", "median", "95 %", "n", "of the rung below", ""]
    rows = [header]
    below: Result | None = None
    for result in section.results:
        share = share_of(result, below) if below is not None and result.measured else ""
        count = str(len(result.repeats) or NOT_MEASURED)
        rows.append([result.name, figure(result), interval(result), count, share, result.note])
        below = result if result.measured else below
    bars = [(each.name, each.median) for each in section.results if each.measured and each.median]
    lines = [
        section.title,
        *(f"  {line}".rstrip() for line in text_table(rows, left=(0, len(header) - 1))),
        "",
        *(f"  {line}" for line in log_bars(bars)),
        "",
        *(f"  {line}" for line in sentences(section)),
    ]
    notes = [*section.notes, *unsteady(section)]
    return "\n".join(lines + [f"  note: {note}" for note in notes])


def sentences(section: Section) -> list[str]:
    """What limits, the option that would move it, the cores that feed the step, the model."""
    found = {each.name: each.median for each in section.results}
    settings = section.settings
    stage, times = settings["limit"], settings["image_ms"]
    share = times[stage] / sum(times.values())
    lines = [
        f"limit: {NAMES[stage]}, {number(times[stage])} ms of the {number(sum(times.values()))} ms "
        f"that an image takes ({share:.0%}); to move it: {settings['option']}",
    ]
    cores = settings["cores_to_feed_the_step"]
    if cores is not None:
        whole = math.ceil(cores)
        lines.append(
            f"cores: {whole} CPU {'core' if whole == 1 else 'cores'} that only "
            f"{'loads' if whole == 1 else 'load'} would feed the step ({number(cores)} kept busy)"
        )
    model, together = found[settings["model"]], found[TOGETHER]
    assert model is not None
    assert together is not None
    lines.append(
        f"end to end: {number(together)} images/s, {together / model:.0%} of {number(model)} "
        f"({settings['model']})"
    )
    return lines
