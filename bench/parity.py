"""Do the back ends make the same images? Pillow, OpenCV and DALI over one plan, sample by sample.

Pillow is the reference. With a checkpoint the same question is asked of what a model makes of the
images: logits, labels, mIoU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from bench.request import Request, fitting_batch, images_per_epoch
from bench.result import Result, Section, not_measured
from loaders.augment import AugmentConfig
from loaders.batch import Batch
from loaders.config import Backend, LoaderConfig
from loaders.factory import create_loader
from shards.errors import JobError, UserError
from shards.progress import Progress
from shards.reader import ShardSet
from train.checkpoints.checkpoint import checkpoint_file, load_checkpoint, model_from_checkpoint
from train.config.resolve import resolve
from train.method.batches import eval_config
from train.scores.evaluation import prepare_model
from train.scores.metrics import scores

BATCH = 32
REFERENCE: Backend = "torchvision"
NAMES = {"torchvision": "Pillow", "opencv": "OpenCV", "dali-cpu": "DALI CPU", "dali": "DALI GPU"}
LEVELS = 256


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Most that a back end may differ from Pillow, in steps of 255."""

    mean: float
    maximum: int


TOLERANCES = {
    # Pillow cuts fractions off where the others round; colours amplify what the resize leaves.
    "training, linear": Tolerance(0.8, 8),
    # DALI has an antialiasing filter of its own; OpenCV's back end takes torch's, which is Pillow's.
    "training, antialias": Tolerance(0.5, 40),
    "evaluation, antialias": Tolerance(0.4, 32),
}
LABEL_FLIPS = 0.01
"""Largest share of samples that may change their predicted label with the back end."""


@dataclass
class Differences:
    """Absolute differences of pixels from the reference, as a histogram: exact for any number."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(LEVELS, np.int64))

    def add(self, images: torch.Tensor, reference: torch.Tensor) -> None:
        """Two uint8 tensors of one shape."""
        apart = (images.cpu().int() - reference.cpu().int()).abs().flatten()
        self.counts += torch.bincount(apart, minlength=LEVELS).numpy()

    @property
    def mean(self) -> float:
        """Of all pixels."""
        return float(self.counts @ np.arange(LEVELS) / self.counts.sum())

    def percentile(self, percent: float) -> int:
        """The smallest difference that so many percent of the pixels do not exceed."""
        wanted = percent / 100 * self.counts.sum()
        return int(np.searchsorted(np.cumsum(self.counts), wanted))

    @property
    def maximum(self) -> int:
        """Of all pixels."""
        return int(np.flatnonzero(self.counts)[-1])


@dataclass
class Answers:
    """What a model makes of one back end's images."""

    matrix: MulticlassConfusionMatrix
    labels: list[torch.Tensor] = field(default_factory=list)
    farthest_logit: float = 0.0
    """Largest absolute difference from the reference."""


def backends(device: torch.device) -> tuple[list[Backend], dict[Backend, str]]:
    """Those that run here beside the reference, and the others with the reason."""
    found: list[Backend] = ["opencv"]
    missing: dict[Backend, str] = {}
    installed = importlib.util.find_spec("nvidia.dali") is not None
    if installed:
        found.append("dali-cpu")
    else:
        missing["dali-cpu"] = "DALI is not installed"
    if installed and device.type == "cuda":
        found.append("dali")
    else:
        missing["dali"] = "no CUDA device" if installed else "DALI is not installed"
    return found, missing


def measure_pixels(request: Request, samples: int) -> tuple[Section, list[str]]:
    """Compare the images of training and evaluation.

    Args:
        request: Shards, image size, device, threads.
        samples: How many images of each kind.

    Returns:
        A row for each kind and back end, and what exceeds its tolerance.

    Raises:
        JobError: The back ends disagree on which samples there are.
    """
    resolved = request.training("resnet18", cpu_batch=BATCH, gpu_batch=BATCH)[1]
    found, missing = backends(resolved.device)
    results: list[Result] = []
    failures: list[str] = []
    for name, config in _kinds(request, str(resolved.device)).items():
        differences = _compare(config, found, samples, name)
        for backend in found:
            row, tolerance = differences[backend], TOLERANCES[name]
            results.append(_pixel_row(f"{name}: {NAMES[backend]}", row, tolerance))
            if row.mean > tolerance.mean or row.maximum > tolerance.maximum:
                failures.append(f"{NAMES[backend]}, {name}")
        results += [
            not_measured(f"{name}: {NAMES[backend]}", why, "of 255")
            for backend, why in missing.items()
        ]
    title = (
        f"pixels against Pillow, mean absolute difference: {samples:,} images of each kind, "
        f"{request.image_size} px, {request.shards}"
    )
    return Section(
        name="parity_pixels",
        title=title,
        results=tuple(results),
        settings={
            "shards": str(request.shards),
            "image_size": request.image_size,
            "samples": samples,
        },
    ), failures


def check_answerable(checkpoint: Path, shards: Path, split: str) -> None:
    """What would stop :func:`measure_answers`, told before the pixels take their minutes.

    Raises:
        UserError: There is no such checkpoint or split, or they do not go together.
    """
    file = checkpoint_file(checkpoint)
    known = len(load_checkpoint(file).class_names)
    shard_set = ShardSet(shards)
    with shard_set.split(split):
        pass
    found = len(shard_set.manifest.class_names)
    if found != known:
        raise UserError(
            f"{shards} has {found} classes, the checkpoint {file} knows {known}; pass the shard set "
            "of its run with --shards"
        )


def measure_answers(
    checkpoint: Path, request: Request, split: str, samples: int | None
) -> tuple[Section, list[str]]:
    """Compare what a trained model makes of the images of each back end.

    Args:
        checkpoint: A ``.pt`` file, or a run folder for its best one.
        request: Shards, device, threads.
        split: To evaluate, with the image size of the run; see :func:`check_answerable`.
        samples: How many images at most; None for all.
    """
    file = checkpoint_file(checkpoint)
    saved = load_checkpoint(file)
    config = replace(saved.config, device=request.device, threads=request.threads)
    resolved = resolve(config)
    found, missing = backends(resolved.device)
    model = prepare_model(model_from_checkpoint(saved, file), resolved).eval()
    num_classes = len(saved.class_names)
    every: list[Backend] = [REFERENCE, *found]
    answers = {name: Answers(MulticlassConfusionMatrix(num_classes)) for name in every}
    loading = eval_config(config, resolved, request.shards, split)
    for batches in _in_step(loading, every, samples, f"evaluating {split}"):
        logits: dict[str, torch.Tensor] = {}
        for name, batch in batches.items():
            with torch.inference_mode(), resolved.autocast():
                logits[name] = model(batch.images).float().cpu()
            answers[name].matrix.update(logits[name].argmax(1), batch.labels.cpu())
            answers[name].labels.append(logits[name].argmax(1))
            apart = float((logits[name] - logits[REFERENCE]).abs().max())
            answers[name].farthest_logit = max(answers[name].farthest_logit, apart)
    return _answer_section(answers, missing, file, split, config.image_size)


def _kinds(request: Request, device: str) -> dict[str, LoaderConfig]:
    training = LoaderConfig(
        shards=request.shards,
        device=device,
        batch_size=fitting_batch(BATCH, images_per_epoch(request.shards), 1),
        image_size=request.image_size,
        threads=request.num_threads,
        augment=AugmentConfig(),
        augment_by="plan",
        resample="linear",
    )
    return {
        "training, linear": training,
        "training, antialias": replace(training, resample="antialias"),
        "evaluation, antialias": replace(training, augment=None, resample="antialias"),
    }


def _compare(
    config: LoaderConfig, found: list[Backend], samples: int, label: str
) -> dict[Backend, Differences]:
    differences = {backend: Differences() for backend in found}
    for batches in _in_step(config, [REFERENCE, *found], samples, label):
        for backend in found:
            differences[backend].add(batches[backend].images, batches[REFERENCE].images)
    return differences


def _in_step(
    config: LoaderConfig, every: list[Backend], samples: int | None, label: str
) -> Iterator[dict[Backend, Batch]]:
    """The same batch of every back end, one batch after another.

    Raises:
        JobError: They disagree on samples or labels.
    """
    with ExitStack() as stack:
        epochs = {}
        for backend in every:
            loader = stack.enter_context(closing(create_loader(replace(config, backend=backend))))
            epochs[backend] = stack.enter_context(closing(loader.epoch(0)))
            total = min(samples or loader.samples_per_epoch, loader.samples_per_epoch)
        steps = -(-total // config.batch_size)
        progress = stack.enter_context(Progress(label, total, "images"))
        for batches in islice(zip(*epochs.values(), strict=True), steps):
            named = dict(zip(every, batches, strict=True))
            reference = named[REFERENCE]
            for backend, batch in named.items():
                same = torch.equal(batch.ids.cpu(), reference.ids.cpu())
                if not same or not torch.equal(batch.labels.cpu(), reference.labels.cpu()):
                    raise JobError(
                        f"{label}: {NAMES[backend]} and {NAMES[REFERENCE]} yield different samples"
                    )
            yield named
            progress.update(len(reference))


def _pixel_row(name: str, found: Differences, tolerance: Tolerance) -> Result:
    high = found.percentile(99.9)
    return Result(
        name=name,
        repeats=(found.mean,),
        unit="of 255",
        note=(
            f"99.9th percentile {high}, maximum {found.maximum} "
            f"(allowed: mean {tolerance.mean}, maximum {tolerance.maximum})"
        ),
        details={"percentile_99_9": high, "maximum": found.maximum},
    )


def _answer_section(
    answers: dict[Backend, Answers],
    missing: dict[Backend, str],
    file: Path,
    split: str,
    image_size: int,
) -> tuple[Section, list[str]]:
    reference = answers[REFERENCE]
    expected, miou = torch.cat(reference.labels), scores(reference.matrix.compute()).miou
    results = [
        Result(name=f"mIoU: {NAMES[REFERENCE]}", repeats=(miou,), unit="", note=f"{miou:.4f}")
    ]
    failures = []
    for backend, found in answers.items():
        if backend == REFERENCE:
            continue
        flips = int((torch.cat(found.labels) != expected).sum())
        change = scores(found.matrix.compute()).miou - miou
        results.append(
            Result(
                name=f"mIoU: {NAMES[backend]}",
                repeats=(miou + change,),
                unit="",
                note=(
                    f"{miou + change:.4f} ({change:+.4f}); {flips} of {len(expected):,} labels flip, "
                    f"logits differ by at most {found.farthest_logit:.3f}"
                ),
                details={
                    "label_flips": flips,
                    "logits": found.farthest_logit,
                    "miou_change": change,
                },
            )
        )
        if flips > LABEL_FLIPS * len(expected):
            failures.append(f"{NAMES[backend]}, labels")
    results += [not_measured(f"mIoU: {NAMES[each]}", why, "") for each, why in missing.items()]
    section = Section(
        name="parity_answers",
        title=f"answers of {file} on {split}, {len(expected):,} images, {image_size} px",
        results=tuple(results),
        settings={"checkpoint": str(file), "split": split, "images": len(expected)},
        notes=(f"allowed: {LABEL_FLIPS:.0%} of the labels",),
    )
    return section, failures
