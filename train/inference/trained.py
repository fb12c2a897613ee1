"""A finished model, ready to run: from a checkpoint, on the shard set of its run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import nn

from shards.errors import JobError, UserError
from shards.format import Manifest
from shards.reader import ShardSet
from shards.settings import path_setting
from train.checkpoints.checkpoint import (
    Checkpoint,
    TrainedOn,
    checkpoint_file,
    model_from_checkpoint,
)
from train.checkpoints.course import CourseCheckpoint, load_trained
from train.config.resolve import Resolved, resolve
from train.config.source import ShardSource, recorded_source, shard_source
from train.method.batches import count_eval_images
from train.scores.calibration import fit_temperature
from train.scores.evaluation import Evaluation, evaluate_split, prepare_model
from train.scores.outputs import Outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model and what it was trained on."""

    file: Path
    """The checkpoint."""
    saved: Checkpoint
    source: ShardSource
    manifest: Manifest
    resolved: Resolved
    network: nn.Module
    """Takes uint8 images, returns logits; compiled or not."""

    def evaluate(self, split: str) -> tuple[Evaluation, Outputs]:
        """Run the model over a split, as its run would.

        Raises:
            JobError: The weights are spoiled.
        """
        result = evaluate_split(
            self.network,
            self.saved.config,
            self.resolved,
            self.source.directory,
            split,
            len(self.saved.class_names),
            keep_outputs=True,
        )
        if not math.isfinite(result.loss):
            raise JobError(f"{self.file}: the loss is {result.loss}, so its weights are spoiled")
        assert result.outputs is not None
        return result, result.outputs

    def temperature(self) -> float:
        """What the logits have to be divided by; where the checkpoint does not say, fitted on val.

        1 where there is no val.
        """
        if self.saved.progress.temperature:
            return self.saved.progress.temperature
        if not count_eval_images(self.saved.config, self.source.directory, "val"):
            return 1.0
        return fit_temperature(self.evaluate("val")[1])


@contextmanager
def open_trained(path: Path, shards: str | None = None) -> Iterator[Trained]:
    """Load a checkpoint (or a run folder's best one) and open its shard set.

    One of the course's is opened as a ``baseline`` run.

    Raises:
        UserError: There is no such checkpoint or shard set, or they do not belong together.
    """
    file = checkpoint_file(path)
    saved = load_trained(file)
    if isinstance(saved, CourseCheckpoint):
        click.echo(str(saved))
        with shard_source(shards) as source:
            manifest = ShardSet(source.directory).manifest
            trained_on = TrainedOn(directory=str(source), fingerprint=manifest.fingerprint)
            yield _on(source, saved.on(manifest.class_names, trained_on), file)
        return
    where = recorded_source(shards, saved.shards.directory)
    if shards is None and not Path(where).is_dir():  # it was moved: to where this machine has its
        where = str(path_setting("shards_dir") or where)
    with shard_source(where) as source:
        yield _on(source, saved, file)


def _on(source: ShardSource, saved: Checkpoint, file: Path) -> Trained:
    manifest = ShardSet(source.directory).manifest
    added = saved.class_names[manifest.num_classes :]
    if manifest.class_names + added != saved.class_names or set(added) - set(saved.enrolled):
        raise UserError(
            f"{source} has {manifest.num_classes} classes, the checkpoint was trained on "
            f"{len(saved.class_names)} others; pass the shard set of its run with --shards"
        )
    resolved = resolve(saved.config, source.url, steps=run_steps(saved))
    for name, value in resolved.to_dict().items():
        if name == "micro_batch":  # of training
            continue
        before = saved.resolved.get(name)  # None where an older version noted no such thing
        if before is not None and before != value:
            click.echo(f"note: {name} is {value} here, the run had {before}")
    if manifest.fingerprint != saved.shards.fingerprint:
        click.echo(f"note: {source} is not the shard set of the run")
    return Trained(
        file=file,
        saved=saved,
        source=source,
        manifest=manifest,
        resolved=resolved,
        network=load_network(saved, file, resolved),
    )


def run_steps(saved: Checkpoint) -> float:
    """As many steps as let :func:`train.config.resolve.resolve` compile where the run did, and only there."""
    return math.inf if saved.resolved.get("compile") else 0


def load_network(saved: Checkpoint, file: Path, resolved: Resolved) -> nn.Module:
    """The model of a checkpoint on its device, in evaluation mode, compiled or not.

    Raises:
        UserError: The weights are not those of the architecture.
    """
    network = prepare_model(model_from_checkpoint(saved, file), resolved).eval()
    if resolved.compile:
        network = torch.compile(network, dynamic=False, mode=resolved.compile_mode)  # type: ignore[assignment]
    return network
