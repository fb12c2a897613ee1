"""A check for owners of a GPU: one file with everything that a bug report needs.

This project was developed on machines without a GPU, so what it does there is seen here first.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import click

from bench.doctor import run_doctor
from bench.end_to_end import run_window
from bench.environment import environment
from bench.parity import measure_pixels
from bench.request import Request, fitting_batch, images_per_epoch
from bench.result import Result, Section, render
from bench.step import Stepper
from loaders.batch import Batch
from loaders.config import Backend
from shards.errors import JobError
from shards.format import Manifest
from shards.settings import CODE_ROOT
from train.method.batches import train_loader

WARM_UP_STEPS, WINDOWS, WINDOW_STEPS = 5, 3, 5
"""20 steps in all."""
PARITY_IMAGES = 128
BATCH = 32
NO_TESTS_RAN = 5
"""Exit code of pytest."""


@dataclass(frozen=True, slots=True)
class Part:
    """One chapter of the file."""

    name: str
    run: Callable[[], str]
    """Returns the text; raises where the part fails."""


def parts(request: Request, arch: str, backends: tuple[Backend, Backend]) -> list[Part]:
    """Environment, marked tests, some training steps with each back end, and their parity."""
    return [
        Part("environment", describe_environment),
        Part("tests marked gpu", run_marked_tests),
        *(
            Part(f"20 training steps, {arch}, loader {backend}", _steps(request, arch, backend))
            for backend in backends
        ),
        Part("parity", lambda: check_parity(request)),
    ]


def write_report(chapters: Sequence[Part], file: Path) -> list[str]:
    """Run every part, whatever became of those before it; returns the names of the failed ones."""
    failed, texts = [], []
    for part in chapters:
        click.echo(f"{part.name} ...")
        try:
            text, verdict = part.run(), "ok"
        except Exception:  # any failure is what this file is for
            text, verdict = traceback.format_exc(), "FAILED"
            failed.append(part.name)
        click.echo(f"  {verdict}")
        texts.append(f"== {part.name}: {verdict}\n{text.rstrip()}\n")
        file.write_text("\n".join(texts), encoding="utf-8")  # a crash leaves what was found so far
    return failed


def describe_environment() -> str:
    """Machine, versions, and what the doctor found."""
    findings = [f"{each.level:<8} {each.name}: {each.value}" for each in run_doctor()]
    return "\n".join([json.dumps(environment(), indent=1), *findings])


def run_marked_tests() -> str:
    """``pytest -m gpu`` in a process of its own, so that a crash of the driver ends only that."""
    if not (CODE_ROOT / "tests").is_dir():
        raise JobError(f"no tests beside the packages in {CODE_ROOT}: run this in a clone")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "--color=no"]
    done = subprocess.run(command, cwd=CODE_ROOT, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    if done.returncode == NO_TESTS_RAN:
        return text + "\nno test is marked gpu"
    if done.returncode:
        raise JobError(f"pytest ended with exit code {done.returncode}\n{text}")
    return text


def _steps(request: Request, arch: str, backend: Backend) -> Callable[[], str]:
    def run() -> str:
        return render(training_steps(request, arch, backend))

    return run


def training_steps(request: Request, arch: str, backend: Backend) -> Section:
    """Train for 20 steps: the first ones apart, the others in windows of five."""
    config, resolved = request.training(arch, cpu_batch=BATCH, gpu_batch=BATCH)
    manifest = Manifest.read(request.shards)
    images = images_per_epoch(request.shards)
    config = replace(config, batch_size=fitting_batch(config.batch_size, images, 1))
    resolved = replace(resolved, loader=backend)
    stepper = Stepper(config, resolved, manifest.num_classes, channels_last=resolved.channels_last)
    loader = train_loader(config, resolved, request.shards)
    with closing(loader), closing(_endless(loader.epoch)) as batches:
        losses = [
            float(stepper.step(batch.images, batch.labels))
            for batch in islice(batches, WARM_UP_STEPS)
        ]
        windows = []
        for _ in range(WINDOWS):
            windows.append(run_window(stepper, batches, min_s=0, min_steps=WINDOW_STEPS))
            losses.append(float(stepper.loss))
    if not all(map(math.isfinite, losses)):
        raise JobError(f"the loss is not finite: {losses}")
    return Section(
        name=f"steps_{backend}",
        title=f"{arch}, {config.image_size} px, batch {config.batch_size}; {resolved}",
        results=(
            Result(name="loader and step", repeats=tuple(each.images_per_s for each in windows)),
            Result(name="data wait", unit="share", repeats=tuple(each.wait for each in windows)),
        ),
        notes=("losses: " + ", ".join(f"{loss:.3f}" for loss in losses),),
    )


def check_parity(request: Request) -> str:
    """What the back ends make of the same plan beside Pillow.

    Raises:
        JobError: They differ by more than is allowed, or disagree on samples or labels.
    """
    section, failures = measure_pixels(request, PARITY_IMAGES)
    text = render(section)
    if failures:
        raise JobError(f"beyond what is allowed: {'; '.join(failures)}\n{text}")
    return text


def _endless(epoch: Callable[[int], Iterator[Batch]]) -> Generator[Batch]:
    number = 0
    while True:
        yield from epoch(number)
        number += 1
