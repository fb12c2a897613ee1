"""Features of a checkpoint's frozen network, for any part of its shard set and for photographs.

They are kept beside the checkpoint (``features/``), named by a digest of all that decides them; a probe's
own (:mod:`train.engine.probe`) are used where they will do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import click
import torch
from torch import nn

from loaders.factory import create_loader
from loaders.subset import Subset
from shards.reader import ShardSet
from train.checkpoints.checkpoint import model_from_checkpoint
from train.config.grid import digest_of
from train.engine.features import Network, cached, extract, fast_network, last_layer
from train.engine.logistic import Head, Samples
from train.engine.point_fit import Points
from train.engine.probe import FOLDER
from train.inference.photos import photo_batches
from train.inference.prediction import preprocessing_of
from train.inference.trained import Trained
from train.method.batches import eval_config, stored_split
from train.method.models import classifier_layer
from train.method.prototypes import Prototypes


class FeatureBank:
    """Where features come from.

    Args:
        trained: The checkpoint, on its shard set.

    Raises:
        UserError: From the constructor, where the network does not end in a linear layer or prototypes.
    """

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.folder = trained.file.parent / FOLDER
        model = model_from_checkpoint(trained.saved, trained.file)
        self._model = model.to(trained.resolved.device)
        self.backbone = model.backbone
        layer = last_layer(model.backbone, self.num_classes)
        self._in_features = layer.in_features
        self.head = head_of(layer)
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
        """Of the weights below the last layer, of how photographs come to them, and of these."""
        saved = self.trained.saved
        head = f"{classifier_layer(self.backbone, self.num_classes)}."
        below = {name: each for name, each in saved.model.items() if not name.startswith(head)}
        config = saved.config
        shown = [config.image_size, config.eval_resize, config.mean, config.std]
        return digest_of(
            [_sha256(below), shown, self.trained.resolved.precision,
             self.trained.manifest.fingerprint]
        )  # fmt: skip

    @cached_property
    def head_digest(self) -> str:
        """Of the last layer."""
        return _sha256({name: each.cpu() for name, each in self.head.tensors().items()})[:8]

    def of_split(self, split: str, subset: Subset) -> Samples:
        """Of the central crops of a part of a split of the run, each photograph once.

        Args:
            split: ``train``, ``val`` or ``test``, as the run has them.
            subset: Which part.
        """
        stored = stored_split(self.trained.saved.config, split)
        return self._of_stored(stored, subset, self._probed(split, subset))

    def of_classes(self, names: tuple[str, ...]) -> Samples:
        """Of all photographs of some classes, whatever their split."""
        shards, subset = ShardSet(self.trained.source.directory), Subset(classes=names)
        parts = []
        for split in self.trained.manifest.splits:
            with shards.split(split) as stored:
                holds_some = bool(subset.repeats(stored).any())
            if holds_some:
                parts.append(self._of_stored(split, subset))
        return Samples(
            torch.cat([each.features for each in parts]), torch.cat([each.labels for each in parts])
        )

    def _of_stored(self, split: str, subset: Subset, file: str | None = None) -> Samples:
        """Of a part of a split of the shard set."""
        config, resolved = self.trained.saved.config, self.trained.resolved
        like_test = eval_config(config, resolved, self.trained.source.directory, "test")
        shown = replace(like_test, split=split, subset=subset)

        def make() -> tuple[Samples, torch.Tensor]:
            with closing(create_loader(shown)) as loader:
                label = f"features of {split}"
                return extract(self.network, loader, 0, resolved, label, lambda: None)

        name = file or f"{split}-{digest_of([self.digest, split, asdict(subset)])}.npz"
        return cached(self.folder / name, resolved.device, None, click.echo, make)[0]

    def _probed(self, split: str, subset: Subset) -> str | None:
        """The file of a probe that holds these very features, if it is there."""
        saved, config = self.trained.saved, self.trained.saved.config
        same_set = saved.shards.fingerprint == self.trained.manifest.fingerprint
        if config.head != "only" or saved.enrolled or not same_set:
            return None
        passes = {
            "train": ("train-1.npz", config.train_subset),
            "val": ("val.npz", config.eval_subset("val")),
        }
        name, shown = passes.get(split, ("", None))
        return name if shown == subset and (self.folder / name).exists() else None

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
        none = torch.empty(0, self._in_features, device=resolved.device)
        return torch.cat([none, *features]), bad


def head_of(layer: nn.Linear) -> Head | Points:
    """A last layer as what makes logits of features."""
    weight = layer.weight.detach()
    if isinstance(layer, Prototypes):
        return Points(weight)
    return Head(
        weight, weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    )


def _sha256(weights: Mapping[str, torch.Tensor]) -> str:
    hashed = hashlib.sha256()
    for name, values in sorted(weights.items()):
        hashed.update(name.encode())
        hashed.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()
