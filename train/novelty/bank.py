"""Features of a checkpoint's frozen network, for any part of its shard set and for photographs.

They are kept beside the checkpoint (``features/``), named by a digest of all that decides them; a probe's
own (:mod:`train.engine.probe`) are used where they will do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import click
import torch

from loaders.factory import create_loader
from loaders.subset import Subset
from train.checkpoints.checkpoint import model_from_checkpoint
from train.config.grid import digest_of
from train.engine.features import Network, cached, extract, fast_network, last_layer
from train.engine.logistic import Head, Samples
from train.engine.probe import FOLDER
from train.inference.photos import photo_batches
from train.inference.prediction import preprocessing_of
from train.inference.trained import Trained
from train.method.batches import eval_config, stored_split
from train.method.models import classifier_layer


class FeatureBank:
    """Where features come from.

    Args:
        trained: The checkpoint, on its shard set.
    """

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.folder = trained.file.parent / FOLDER
        model = model_from_checkpoint(trained.saved, trained.file)
        self._model = model.to(trained.resolved.device)
        layer = last_layer(model.backbone, self.num_classes)
        bias = torch.zeros(self.num_classes) if layer.bias is None else layer.bias
        self.head = Head(layer.weight.detach(), bias.detach().to(layer.weight.device))
        """The last layer, which makes logits of features."""

    @property
    def num_classes(self) -> int:
        """K: outputs of the last layer."""
        return len(self.trained.saved.class_names)

    @cached_property
    def network(self) -> Network:
        """The quickest way to features; it takes seconds to make."""
        config, resolved = self.trained.saved.config, self.trained.resolved
        network, how = fast_network(self._model, self.num_classes, config.image_size, resolved)
        click.echo(f"features by {how}")
        return network

    @cached_property
    def digest(self) -> str:
        """Of the weights below the last layer, and of how photographs come to them."""
        saved = self.trained.saved
        head = f"{classifier_layer(self._model.backbone, self.num_classes)}."
        hashed = hashlib.sha256()
        for name, values in sorted(saved.model.items()):
            if not name.startswith(head):
                hashed.update(name.encode())
                hashed.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        config = saved.config
        shown = [config.image_size, config.eval_resize, config.mean, config.std]
        return digest_of(
            [hashed.hexdigest(), shown, self.trained.resolved.precision,
             self.trained.manifest.fingerprint]
        )  # fmt: skip

    def of_split(self, split: str, subset: Subset) -> Samples:
        """Of the central crops of a part of a split of the run, natural sampling.

        Args:
            split: ``train``, ``val`` or ``test``, as the run has them (:func:`train.method.batches.stored_split`).
            subset: Which part.
        """
        saved, resolved = self.trained.saved, self.trained.resolved
        shown = replace(
            eval_config(saved.config, resolved, self.trained.source.directory, split), subset=subset
        )
        stored = stored_split(saved.config, split)

        def make() -> tuple[Samples, torch.Tensor]:
            with closing(create_loader(shown)) as loader:
                return extract(self.network, loader, 0, resolved, f"features: {split}", _go_on)

        name = self._probed(split, subset)
        if name is None or not (self.folder / name).exists():
            name = f"{stored}-{digest_of([self.digest, stored, asdict(subset)])}.npz"
        return cached(self.folder / name, resolved.device, make)[0]

    def _probed(self, split: str, subset: Subset) -> str | None:
        """What a probe calls these very features."""
        saved = self.trained.saved
        same_set = saved.shards.fingerprint == self.trained.manifest.fingerprint
        if saved.config.head != "only" or not same_set or saved.enrolled:
            return None
        if split == "train" and subset == saved.config.train_subset:
            return "train-1.npz"
        return "val.npz" if split == "val" and subset == saved.config.eval_subset("val") else None

    def of_photos(self, paths: Iterable[Path]) -> tuple[torch.Tensor, list[tuple[Path, str]]]:
        """``(N, D)`` features of what could be read, and what could not, and why."""
        saved, resolved = self.trained.saved, self.trained.resolved
        features: list[torch.Tensor] = []
        bad: list[tuple[Path, str]] = []
        batches = photo_batches(
            paths, preprocessing_of(saved, resolved), saved.config.batch_size, resolved.threads
        )
        with closing(batches), torch.inference_mode():
            for batch in batches:
                bad += batch.bad
                if batch.paths:
                    features.append(self.network(batch.images.to(resolved.device)).clone())
        none = self.head.weight.new_empty(0, self.head.weight.shape[1])
        return torch.cat([none, *features]), bad


def _go_on() -> None:
    """Signals are raised where they come: what is kept is complete in any case."""
