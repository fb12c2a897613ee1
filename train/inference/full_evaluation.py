"""Evaluate a checkpoint and say everything about it: what ``python -m train.evaluate`` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from train.inference.trained import open_trained
from train.scores.assessment import assess, full_row
from train.scores.evaluation import Compared, not_beside, published_lines, result_row
from train.scores.species import taxonomy_of


@dataclass(frozen=True, slots=True)
class FullEvaluation:
    """Of a checkpoint on a split."""

    compared: Compared
    content: dict[str, Any]
    """For JSON."""


def evaluate_in_full(
    path: Path, split: str, shards: str | None, species: Path | None, *, say_all: bool
) -> FullEvaluation:
    """Evaluate a checkpoint (or a run folder's best one) as its run would, and print the result.

    Args:
        path: The checkpoint.
        split: Of the shard set.
        shards: Shard set; None for that of the run.
        species: Species table; None for the shipped one.
        say_all: Whether to print more than the row and the published one.

    Raises:
        UserError: There is no such checkpoint, shard set or table, or they do not belong together.
        JobError: The weights are spoiled.
    """
    with open_trained(path, shards) as trained:
        manifest, config = trained.manifest, trained.saved.config
        taxonomy = taxonomy_of(trained.saved.class_names, species)
        result, outputs = trained.evaluate(split)
        click.echo(result_row(split, result))
        if split == "test":
            for line in published_lines(manifest, config):
                click.echo(line)
        assessment = assess(outputs, taxonomy, trained.temperature())
        if say_all:
            for line in assessment.lines():
                click.echo(line)
        return FullEvaluation(
            Compared(str(trained.file), config.arch, result, not_beside(manifest, config, split)),
            full_row(path, split, result, assessment),
        )
