"""What a checkpoint says about photographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from torch import nn
from torch.nn.functional import pad

from preprocess.image import ImageOptions
from train.checkpoints.checkpoint import Checkpoint, checkpoint_file, load_checkpoint
from train.config.resolve import Resolved, resolve
from train.inference.explanation import Explainer, explainer
from train.inference.photos import PhotoBatch, Preprocessing, photo_batches
from train.inference.trained import load_network, run_steps
from train.method.batches import eval_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """A model, and how photographs come to it."""

    file: Path
    """The checkpoint."""
    saved: Checkpoint
    resolved: Resolved
    network: nn.Module
    preprocessing: Preprocessing
    temperature: float
    batch_size: int

    @torch.inference_mode()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, 3, S, S)`` uint8 on the CPU -> ``(B, K)`` float32 on the CPU."""
        count = len(images)
        if self.resolved.compile and count < self.batch_size:  # a compiled model sees one shape
            images = pad(images, (0, 0, 0, 0, 0, 0, 0, self.batch_size - count))
            images = images.contiguous(memory_format=torch.channels_last)
        with self.resolved.autocast():
            logits: torch.Tensor = self.network(images.to(self.resolved.device))[:count]
        return logits.float().cpu()

    def probabilities(self, paths: Iterable[Path]) -> Iterator[tuple[PhotoBatch, torch.Tensor]]:
        """Batches, and ``(B, K)`` float64 calibrated probabilities of what could be read of them."""
        batches = photo_batches(paths, self.preprocessing, self.batch_size, self.resolved.threads)
        with closing(batches):
            for batch in batches:
                if batch.paths:
                    logits = self.logits(batch.images).double()
                else:
                    logits = torch.empty(0, len(self.saved.class_names), dtype=torch.float64)
                yield batch, (logits / self.temperature).softmax(1)

    def explainer(self) -> Explainer:
        """What shows where the model looks.

        Raises:
            UserError: The library for it is missing, or the architecture has no last map of features.
        """
        plain = replace(
            self.resolved, compile=False
        )  # layers of a compiled model cannot be watched
        network = load_network(self.saved, self.file, plain)
        return explainer(network, self.saved.config.arch, self.preprocessing.image_size, plain)


def open_predictor(path: Path, batch_size: int | None = None) -> Predictor:
    """Load a checkpoint, or a run folder's best one; its shard set is not needed.

    Raises:
        UserError: There is no such checkpoint.
    """
    file = checkpoint_file(path)
    saved = load_checkpoint(file)
    resolved = resolve(saved.config, steps=run_steps(saved))
    if saved.shards.packing is None:
        click.echo(
            "note: the checkpoint does not say how its photographs were packed; as by default",
            err=True,
        )
    if not saved.progress.temperature:
        click.echo(
            "note: the checkpoint holds no temperature, so probabilities are not calibrated",
            err=True,
        )
    shown = eval_config(saved.config, resolved, Path(), "test")
    return Predictor(
        file=file,
        saved=saved,
        resolved=resolved,
        network=load_network(saved, file, resolved),
        preprocessing=Preprocessing(
            packing=saved.shards.packing or ImageOptions(),
            resize_size=shown.eval_resize,
            image_size=shown.image_size,
        ),
        temperature=saved.progress.temperature or 1.0,
        batch_size=batch_size or shown.batch_size,
    )
