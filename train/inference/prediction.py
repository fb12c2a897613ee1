"""What a checkpoint says about photographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn
from torch.nn.functional import pad

from preprocess.image import ImageOptions
from shards.errors import UserError
from train.checkpoints.checkpoint import Checkpoint, checkpoint_file, load_checkpoint
from train.config.resolve import Resolved, resolve
from train.engine.features import last_layer
from train.inference.explanation import Explainer, explainer
from train.inference.photos import PhotoBatch, Preprocessing, photo_batches
from train.inference.trained import load_network, run_steps
from train.method.batches import eval_config
from train.scores.conformal import draws_for, prediction_sets


@dataclass(frozen=True, slots=True)
class Seen:
    """What a model says about a batch of photographs."""

    batch: PhotoBatch
    probabilities: torch.Tensor
    """``(B, K)`` float64, calibrated."""
    known_scores: torch.Tensor | None
    """``(B,)`` how well each fits the known species; None where the checkpoint cannot say."""


class FeatureTap:
    """Keeps what comes to the last layer of a network, of the batch that passed last.

    Args:
        layer: The last layer, of a network that is not compiled.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.features = torch.empty(0)
        """``(B, D)``."""
        layer.register_forward_pre_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.features = inputs[0]


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
    tap: FeatureTap | None = None
    """Where the checkpoint tells unknown species by features."""

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
        for seen in self.seen(paths):
            yield seen.batch, seen.probabilities

    def seen(self, paths: Iterable[Path]) -> Iterator[Seen]:
        """What the model says about photographs, batch by batch."""
        batches = photo_batches(paths, self.preprocessing, self.batch_size, self.resolved.threads)
        with closing(batches):
            for batch in batches:
                if batch.paths:
                    logits = self.logits(batch.images)
                else:
                    logits = torch.empty(0, len(self.saved.class_names))
                yield Seen(
                    batch,
                    (logits.double() / self.temperature).softmax(1),
                    self._known_scores(logits),
                )

    def _known_scores(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Of the batch whose logits were computed last."""
        detector = self.saved.unknown
        if detector is None:
            return None
        if not len(logits):
            return torch.empty(0)
        features = None if self.tap is None else self.tap.features[: len(logits)].float().cpu()
        return detector.scores(logits[:, self.saved.known], features)

    def check_sets(self) -> None:
        """Raise :class:`UserError` where the checkpoint holds nothing to make prediction sets from."""
        if self.saved.conformal is None:
            raise UserError(
                f"{self.file} holds no scores to make prediction sets from; store them with: "
                f'python -m train.study conformal "{self.file}"'
            )

    def sets(self, seen: Seen, coverage: float) -> torch.Tensor:
        """``(B, K)`` bool: sets of classes that hold the true one with a probability of ``coverage``."""
        assert self.saved.conformal is not None
        known = self.saved.known
        probabilities = seen.probabilities[:, known]
        probabilities = probabilities / probabilities.sum(1, keepdim=True)
        sets = torch.zeros_like(seen.probabilities, dtype=torch.bool)
        sets[:, known] = prediction_sets(
            probabilities, draws_for(seen.batch.images), self.saved.conformal, coverage
        )
        return sets

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
    needs_features = saved.unknown is not None and saved.unknown.known is not None
    if needs_features:
        resolved = replace(resolved, compile=False)
    network = load_network(saved, file, resolved)
    tap = None
    if needs_features:
        tap = FeatureTap(_last_layer(network, saved, file))
    return Predictor(
        file=file,
        saved=saved,
        resolved=resolved,
        network=network,
        tap=tap,
        preprocessing=preprocessing_of(saved, resolved),
        temperature=saved.progress.temperature or 1.0,
        batch_size=batch_size or saved.config.batch_size,
    )


def _last_layer(network: Any, saved: Checkpoint, file: Path) -> nn.Linear:
    """Of a network whose features are to be scored.

    Raises:
        UserError: What the checkpoint remembers is of other features.
    """
    layer = last_layer(network.backbone, len(saved.class_names))
    remembered = saved.unknown.known if saved.unknown else None
    if remembered is not None and remembered.means.shape[1] != layer.in_features:
        raise UserError(
            f"{file} does not hold what a run saves: it remembers features of size "
            f"{remembered.means.shape[1]}, its network has {layer.in_features}"
        )
    return layer


def preprocessing_of(saved: Checkpoint, resolved: Resolved) -> Preprocessing:
    """How photographs come to the model of a checkpoint: as in an evaluation of its run."""
    shown = eval_config(saved.config, resolved, Path(), "test")
    return Preprocessing(
        packing=saved.shards.packing or ImageOptions(),
        resize_size=shown.eval_resize,
        image_size=shown.image_size,
    )
