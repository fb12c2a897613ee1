"""Run a model over a split: the confusion matrix, and the lines that say what it means."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad
from torchmetrics.classification import MulticlassConfusionMatrix

from loaders.batch import Loader
from shards.errors import JobError, UserError
from shards.format import Manifest
from shards.progress import Progress
from shards.reader import ShardSet
from shards.settings import path_setting
from train.batches import eval_loader
from train.checkpoint import Checkpoint, checkpoint_file, load_checkpoint, model_from_checkpoint
from train.distributed import largest_share, same_buffers, total
from train.metrics import Scores, absent_classes, scores
from train.published import incomparable, published_table
from train.recipes import TrainConfig
from train.resolve import Resolved, resolve
from train.source import ShardSource, recorded_source, shard_source


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model made of a split."""

    confusion: torch.Tensor
    """``(K, K)`` int64 on the CPU, rows true, columns predicted."""
    loss: float
    """Mean cross entropy, without label smoothing."""
    seconds: float

    @property
    def images(self) -> int:
        """How many were evaluated."""
        return int(self.confusion.sum())

    @property
    def scores(self) -> Scores:
        """OA, mF1 and mIoU."""
        return scores(self.confusion)

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {
            **self.scores.as_dict(),
            "loss": self.loss,
            "images": self.images,
            "classes_without_image": absent_classes(self.confusion),
            "seconds": self.seconds,
        }


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Loader,
    resolved: Resolved,
    num_classes: int,
    *,
    pad_to: int | None = None,
    after_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Run a model over every sample of a split once, each process over its share.

    Args:
        model: Takes uint8 images, returns logits; put into evaluation mode.
        loader: Of the split.
        resolved: Device and precision.
        num_classes: K.
        pad_to: Images of a rank to which short batches are padded: a compiled model sees one shape.
        after_batch: Called after each batch; may raise.

    Raises:
        JobError: The loader did not yield each sample once.
    """
    model.eval()
    same_buffers(model)
    start = time.perf_counter()
    matrix = MulticlassConfusionMatrix(num_classes).to(resolved.device)
    loss_sum = torch.zeros((), device=resolved.device)
    with (
        closing(loader.epoch(0)) as batches,
        Progress("evaluating", loader.samples_per_epoch, "img") as progress,
    ):
        for batch in batches:
            count = len(batch)
            if count == 0:  # a rank's share of a last, short batch
                after_batch()
                continue
            images = batch.images
            if pad_to is not None and count < pad_to:
                images = pad(images, (0, 0, 0, 0, 0, 0, 0, pad_to - count))
                images = images.contiguous(memory_format=torch.channels_last)
            with resolved.autocast():
                logits = model(images)[:count].float()
            loss_sum += cross_entropy(logits, batch.labels, reduction="sum")
            matrix.update(logits.argmax(1), batch.labels)
            progress.update(count)
            after_batch()
    confusion = matrix.compute().cpu()  # torchmetrics sums it over all processes
    images_seen = int(confusion.sum())
    if images_seen != loader.samples_per_epoch:
        raise JobError(f"evaluated {images_seen} images, expected {loader.samples_per_epoch}")
    return Evaluation(confusion, float(total(loss_sum)) / images_seen, time.perf_counter() - start)


def evaluate_split(
    model: nn.Module,
    config: TrainConfig,
    resolved: Resolved,
    shards: Path,
    split: str,
    num_classes: int,
    after_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Open a split, evaluate a (possibly compiled) model on it, close it again."""
    loader = eval_loader(config, resolved, shards, split)
    try:
        pad_to = largest_share(config.batch_size) if resolved.compile else None
        return evaluate(
            model, loader, resolved, num_classes, pad_to=pad_to, after_batch=after_batch
        )
    finally:
        loader.close()


def evaluate_checkpoint(path: Path, split: str, shards: str | None) -> Evaluation:
    """Evaluate a checkpoint (or a run folder's best one) as its run would, and print the row.

    Raises:
        UserError: There is no such checkpoint or shard set, or they do not belong together.
        JobError: The weights are spoiled.
    """
    file = checkpoint_file(path)
    saved = load_checkpoint(file)
    where = recorded_source(shards, saved.shards.directory)
    if shards is None and not Path(where).is_dir():  # it was moved: to where this machine has its
        where = str(path_setting("shards_dir") or where)
    with shard_source(where) as source:
        return _evaluate_on(source, split, saved, file)


def _evaluate_on(source: ShardSource, split: str, saved: Checkpoint, file: Path) -> Evaluation:
    manifest = ShardSet(source.directory).manifest
    if manifest.class_names != saved.class_names:
        raise UserError(
            f"{source} has {manifest.num_classes} classes, the checkpoint was trained on "
            f"{len(saved.class_names)} others; pass the shard set of its run with --shards"
        )
    model = model_from_checkpoint(saved, file)
    resolved = resolve(saved.config, source.url)
    for name, value in resolved.to_dict().items():
        if (before := saved.resolved.get(name)) != value:
            click.echo(f"note: {name} is {value} here, the run had {before}")
    if manifest.fingerprint != saved.shards.fingerprint:
        click.echo(f"note: {source} is not the shard set of the run")
    network = prepare_model(model, resolved)
    if resolved.compile:
        network = torch.compile(network, dynamic=False)  # type: ignore[assignment]
    result = evaluate_split(
        network, saved.config, resolved, source.directory, split, manifest.num_classes
    )
    click.echo(result_row(split, result))
    if not math.isfinite(result.loss):
        raise JobError(f"{file}: the loss is {result.loss}, so its weights are spoiled")
    if split == "test":
        for line in published_lines(manifest, saved.config):
            click.echo(line)
    return result


def prepare_model(model: nn.Module, resolved: Resolved) -> nn.Module:
    """Move a model to its device and memory format; the result shares its weights."""
    model = model.to(resolved.device)
    if resolved.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model


def result_row(split: str, evaluation: Evaluation) -> str:
    """The line that training and this command print alike."""
    lacking = absent_classes(evaluation.confusion)
    note = f"  (classes without an image here: {lacking})" if lacking else ""
    return (
        f"{split}: {evaluation.scores}  loss {evaluation.loss:.4f}  "
        f"{evaluation.images:,} images{note}"
    )


def published_lines(manifest: Manifest, config: TrainConfig) -> list[str]:
    """The published row where it may stand beside a test result, else why it may not."""
    published = published_table().get(config.arch)
    if published is None:
        return []
    reason = incomparable(manifest, config.image_size)
    if config.classes or config.holdout:
        reason = "a part of the classes"
    if reason is not None:
        return [f"published {config.arch}: different data, not comparable ({reason})"]
    row = Scores(oa=published.oa, mf1=published.mf1, miou=published.miou)
    return [f"published {config.arch}: {row}"]
