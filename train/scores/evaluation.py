"""Run a model over a split: the confusion matrix, and the lines that say what it means."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad
from torchmetrics.classification import MulticlassConfusionMatrix

from loaders.batch import Loader
from shards.errors import JobError
from shards.format import Manifest
from shards.progress import Progress
from shards.reader import ShardSet
from train.config.config import TrainConfig
from train.config.distributed import from_each, largest_share, same_buffers, total
from train.config.resolve import Resolved
from train.method.batches import eval_loader
from train.method.models import Classifier
from train.scores.metrics import Scores, absent_classes, scores
from train.scores.outputs import Outputs, joined
from train.scores.published import incomparable, published_table


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model made of a split."""

    confusion: torch.Tensor
    """``(K, K)`` int64 on the CPU, rows true, columns predicted."""
    loss: float
    """Mean cross entropy, without label smoothing."""
    seconds: float
    outputs: Outputs | None = None
    """Image by image, where they were asked for."""
    listed: int | None = None
    """Rows that the data set lists for the split, rejected and repeated ones too; None where the run
    leaves some out on purpose."""

    @property
    def images(self) -> int:
        """How many were evaluated."""
        return int(self.confusion.sum())

    @property
    def scores(self) -> Scores:
        """OA, mF1 and mIoU."""
        return scores(self.confusion)

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return {
            **self.scores.as_dict(),
            "loss": self.loss,
            "images": self.images,
            "listed_rows": self.listed,
            "classes_without_image": absent_classes(self.confusion),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class Compared:
    """A checkpoint that was evaluated, and whether the published row may stand beside it."""

    checkpoint: str
    arch: str
    result: Evaluation
    not_beside: str | None
    """Why it must not; None if it may."""


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loader: Loader,
    resolved: Resolved,
    num_classes: int,
    *,
    pad_to: int | None = None,
    keep_outputs: bool = False,
    after_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Run a model over every sample of a split once, each process over its share.

    Args:
        model: Takes uint8 images, returns logits; put into evaluation mode.
        loader: Of the split.
        resolved: Device and precision.
        num_classes: K.
        pad_to: Images of a rank to which short batches are padded: a compiled model sees one shape.
        keep_outputs: Whether the result holds the logits of every image.
        after_batch: Called after each batch; may raise.

    Raises:
        JobError: The loader did not yield each sample once.
    """
    model.eval()
    same_buffers(model)
    start = time.perf_counter()
    matrix = MulticlassConfusionMatrix(num_classes).to(resolved.device)
    loss_sum = torch.zeros((), device=resolved.device)
    kept: list[Outputs] = []
    with (
        closing(loader.epoch(0)) as batches,
        Progress("evaluating", loader.samples_per_epoch, "img") as progress,
    ):
        for batch in batches:
            count = len(batch)
            if count == 0:  # a rank's share of a last, short batch
                after_batch()
                continue
            with resolved.autocast():
                logits = model(padded(batch.images, pad_to))[:count].float()
            loss_sum += cross_entropy(logits, batch.labels, reduction="sum")
            matrix.update(logits.argmax(1), batch.labels)
            if keep_outputs:
                kept.append(Outputs(logits, batch.labels, batch.ids))
            progress.update(count)
            after_batch()
    confusion = matrix.compute().cpu()  # torchmetrics sums it over all processes
    images_seen = int(confusion.sum())
    if images_seen != loader.samples_per_epoch:
        raise JobError(f"evaluated {images_seen} images, expected {loader.samples_per_epoch}")
    return Evaluation(
        confusion,
        float(total(loss_sum)) / images_seen,
        time.perf_counter() - start,
        all_outputs(kept) if keep_outputs else None,
    )


def padded(images: torch.Tensor, pad_to: int | None) -> torch.Tensor:
    """Black images behind a short batch, so that a compiled model sees one shape."""
    count = len(images)
    if pad_to is None or count >= pad_to:
        return images
    longer = pad(images, (0, 0, 0, 0, 0, 0, 0, pad_to - count))
    return longer.contiguous(memory_format=torch.channels_last)


def all_outputs(kept: list[Outputs]) -> Outputs:
    """Those of all processes, in the order of the split."""
    shares = from_each([joined(kept)] if kept else [])
    outputs = joined([each for share in shares for each in share])
    if len(shares) > 1:
        order = outputs.ids.argsort()
        outputs = Outputs(outputs.logits[order], outputs.labels[order], outputs.ids[order])
    return outputs


def evaluate_split(
    model: nn.Module,
    config: TrainConfig,
    resolved: Resolved,
    shards: Path,
    split: str,
    num_classes: int,
    after_batch: Callable[[], None] = lambda: None,
    *,
    keep_outputs: bool = False,
) -> Evaluation:
    """Open a split, evaluate a (possibly compiled) model on it, close it again."""
    loader = eval_loader(config, resolved, shards, split)
    try:
        pad_to = largest_share(config.batch_size) if resolved.compile else None
        result = evaluate(
            model,
            loader,
            resolved,
            num_classes,
            pad_to=pad_to,
            keep_outputs=keep_outputs,
            after_batch=after_batch,
        )
        return replace(result, listed=listed_rows(ShardSet(shards).manifest, config, split))
    finally:
        loader.close()


def listed_rows(manifest: Manifest, config: TrainConfig, split: str) -> int | None:
    """Rows of the split that a run evaluates on; None where it leaves some out on purpose."""
    if str(config.eval_subset(split)):
        return None
    return manifest.splits[split].rows


def prepare_model(model: Classifier, resolved: Resolved) -> Classifier:
    """Move a model to its device and memory format; the result shares its weights."""
    model = model.to(resolved.device)
    if resolved.channels_last:
        return model.to(memory_format=torch.channels_last)
    model.memory_format = torch.contiguous_format
    return model


def result_row(split: str, evaluation: Evaluation) -> str:
    """The line that training and this command print alike."""
    lacking = absent_classes(evaluation.confusion)
    note = f"  (classes without an image here: {lacking})" if lacking else ""
    listed = ""
    if evaluation.listed not in (None, evaluation.images):
        listed = f" of {evaluation.listed:,} listed rows"
    return (
        f"{split}: {evaluation.scores}  loss {evaluation.loss:.4f}  "
        f"{evaluation.images:,} images{listed}{note}"
    )


def published_lines(manifest: Manifest, config: TrainConfig) -> list[str]:
    """The published row where it may stand beside a test result, else why it may not."""
    published = published_table().get(config.arch)
    if published is None:
        return []
    if reason := not_beside(manifest, config, "test"):
        return [f"published {config.arch}: different data, not comparable ({reason})"]
    row = Scores(oa=published.oa, mf1=published.mf1, miou=published.miou)
    return [f"published {config.arch}: {row}"]


def not_beside(manifest: Manifest, config: TrainConfig, split: str) -> str | None:
    """Why a result must not stand beside the published one."""
    if split != "test":
        return f"split {split}, the published results are of test"
    if config.classes or config.holdout:
        return "a part of the classes"
    return incomparable(manifest, config.image_size)
