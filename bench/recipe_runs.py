"""Recipes trained to their end: each length and seed is a run of its own, with its schedule at its end.

Runs lie in a folder under names that their configuration decides, so the same command goes on where it
was stopped, and one with more seeds or lengths finds the runs that are there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.load import LoadMeter
from bench.operations import flops_per_image
from shards.errors import JobError, UserError
from shards.plain import from_plain
from shards.writer import write_file
from train.checkpoints.checkpoint import LAST
from train.config.config import TrainConfig
from train.config.grid import Point
from train.config.recipes import create_recipe
from train.config.resolution import training_size
from train.config.safety import Safety
from train.config.settings import Layer, settle
from train.config.source import ShardSource
from train.inference.trained import open_trained
from train.scores.metrics import scores
from train.sweeps.sweep_run import run_point

FINAL = "final.json"
"""In the folder of a run: what its last weights score, and what they cost."""
SPLITS = ("val", "test")
BOTH = "val + test"


@dataclass(frozen=True, slots=True)
class Curve:
    """A recipe and its lengths."""

    recipe: str
    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalRun:
    """A finished run: the scores of its last weights, whatever was best on the way, and their cost."""

    recipe: str
    arch: str
    image_size: int
    epochs: int
    seed: int
    miou: dict[str, float]
    """Of val, of test, and of the images of both together."""
    tflop: float
    """Of forward and backward of all training images; evaluation, optimizer and starting weights
    are not in it."""
    seconds: float
    """Of the run with loading, compiling, one evaluation of val and one of test."""
    samples_seen: int
    cores_of_others: float | None
    """Cores that other processes kept busy meanwhile; None where not told, or it was stopped once."""


def read_curve(text: str) -> Curve:
    """The curve that ``fast=5,10`` names; without lengths the recipe's own.

    Raises:
        UserError: No such recipe, none that makes steps, or no such lengths.
    """
    name, _, lengths = text.partition("=")
    config = create_recipe(name.strip())
    if config.head == "only":
        raise UserError(
            f"recipe {config.recipe} makes no training step, so it has no curve; `python -m train "
            f"--recipe {config.recipe}` prints its score and time"
        )
    try:
        epochs = tuple(int(each) for each in lengths.split(",")) if lengths else (config.epochs,)
    except ValueError:
        epochs = (0,)
    if min(epochs) < 1 or len(set(epochs)) < len(epochs):
        raise UserError(
            f"{text!r} is not a recipe with different numbers of epochs, as in fast=5,10"
        )
    return Curve(config.recipe, epochs)


def points(curves: Sequence[Curve], seeds: int, arch: str, image_size: int) -> list[Point]:
    """The runs: every seed of a length, one length after the other.

    Args:
        curves: What to train.
        seeds: So many, from 1 on.
        arch: Of recipes that begin at random; those that start from weights keep their own.
        image_size: Side of the crops at evaluation [px], of the same recipes.

    Raises:
        UserError: A length of a recipe stands there twice; its runs would count twice.
    """
    asked = Counter((curve.recipe, epochs) for curve in curves for epochs in curve.epochs)
    (recipe, epochs), times = asked.most_common(1)[0]
    if times > 1:
        raise UserError(
            f"{recipe}={epochs} is asked for {times} times; name each length of a recipe once"
        )
    found = []
    for curve in curves:
        at_random = create_recipe(curve.recipe).weights is None
        chosen = {"arch": arch, "image_size": image_size} if at_random else {}
        for epochs in curve.epochs:
            for seed in range(1, seeds + 1):
                varied = {"recipe": curve.recipe, "epochs": epochs, "seed": seed}
                # One evaluation: nothing is chosen by val, and the minutes are those of training.
                fixed = {"eval_every": float(epochs)}
                found.append(
                    Point(varied, settle([Layer("bench", chosen | varied | fixed)]).config)
                )
    return found


def run_to_the_end(
    point: Point, folder: Path, fingerprint: str, source: ShardSource, safety: Safety
) -> FinalRun:
    """Train a point, or take up or read what is there of it, and score its last weights.

    Args:
        point: The run.
        folder: Of all runs.
        fingerprint: Of the shard set.
        source: The shard set.
        safety: How often it saves.

    Raises:
        Interrupted: A signal asked to stop; the run is saved.
        JobError: It failed.
        UserError: The shard set has no val or no test split, or a record is damaged.
    """
    place = folder / point.name(fingerprint)
    if (place / FINAL).is_file():
        return _read(place / FINAL)
    begins, load = not place.exists(), LoadMeter()
    outcome = run_point(point, place, source, safety)
    if outcome.summary is None:
        raise JobError(f"{point}: {outcome.error}")
    others = load.others() if begins else None
    final = FinalRun(
        recipe=point.config.recipe,
        arch=point.config.arch,
        image_size=point.config.image_size,
        epochs=point.config.epochs,
        seed=point.config.seed,
        miou=final_miou(place / LAST, source),
        tflop=training_flops(point.config, _images_per_epoch(outcome.summary)) / 1e12,
        seconds=float(outcome.summary["seconds"]),
        samples_seen=int(outcome.summary["samples_seen"]),
        cores_of_others=others,
    )
    write_file(place / FINAL, (json.dumps(asdict(final), indent=1) + "\n").encode())
    return final


def final_miou(checkpoint: Path, source: ShardSource) -> dict[str, float]:
    """Scores (mIoU) of a checkpoint on val, on test, and on the images of both in one matrix.

    Raises:
        UserError: The shard set has no such split.
    """
    with open_trained(checkpoint, str(source.url or source.directory)) as trained:
        matrices = {split: trained.evaluate(split)[0].confusion for split in SPLITS}
    matrices[BOTH] = matrices["val"] + matrices["test"]
    return {name: scores(each).miou for name, each in matrices.items()}


def training_flops(config: TrainConfig, images_per_epoch: int) -> int:
    """Of forward and backward of every training image of a run, each at the size it was shown in."""
    steps = -(-images_per_epoch // config.batch_size)
    total = config.epochs * steps
    images: dict[int, int] = {}
    for step in range(total):
        size = training_size(config, (step + 0.5) / total)
        of_epoch = images_per_epoch - step % steps * config.batch_size
        images[size] = images.get(size, 0) + min(config.batch_size, of_epoch)
    return sum(count * flops_per_image(config.arch, size) for size, count in images.items())


def _images_per_epoch(summary: Mapping[str, Any]) -> int:
    return round(float(summary["samples_seen"]) / float(summary["epochs"]))


def _read(path: Path) -> FinalRun:
    try:
        return from_plain(FinalRun, json.loads(path.read_text(encoding="utf-8")), "record")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it to score the run again") from None
