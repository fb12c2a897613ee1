"""What a report is about: a finished run, its result in full, its curves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import UserError
from train.inference.trained import open_trained
from train.method.batches import count_eval_images, stored_split
from train.report.gallery import Mistake, worst_mistakes
from train.runs.log import CONFIG, METRICS, SUMMARY
from train.scores.assessment import assess, full_row
from train.scores.evaluation import published_lines
from train.scores.outputs import Outputs
from train.scores.species import Taxonomy, taxonomy_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Of a report."""

    run: Path
    config: dict[str, Any]
    """``config.json``."""
    summary: dict[str, Any]
    """``summary.json``."""
    epochs: tuple[dict[str, float], ...]
    """``metrics.jsonl``."""
    row: dict[str, Any]
    """As ``train.evaluate --json`` writes it."""
    outputs: Outputs
    taxonomy: Taxonomy
    published: tuple[str, ...]
    mistakes: tuple[Mistake, ...]
    data: dict[str, Any]
    """About the shard set: counts of each split."""


def read_content(run: Path, shards: str | None, species: Path | None) -> Content:
    """Evaluate a run's best checkpoint and collect what it left.

    Raises:
        UserError: It is no finished run, or its shard set is gone.
    """
    summary = read_json(run, SUMMARY)
    config = read_json(run, CONFIG)
    with open_trained(run, shards) as trained:
        saved, folder = trained.saved, trained.source.directory
        taxonomy = taxonomy_of(saved.class_names, species)
        split = "test" if count_eval_images(saved.config, folder, "test") else "val"
        result, outputs = trained.evaluate(split)
        temperature = trained.temperature()
        return Content(
            run=run,
            config=config,
            summary=summary,
            epochs=tuple(read_metrics(run)),
            row=full_row(run, split, result, assess(outputs, taxonomy, temperature)),
            outputs=outputs,
            taxonomy=taxonomy,
            published=tuple(published_lines(trained.manifest, saved.config) * (split == "test")),
            mistakes=tuple(
                worst_mistakes(
                    outputs, temperature, saved.class_names, folder,
                    stored_split(saved.config, split),
                )
            ) if trained.source.url is None else (),
            data={
                name: {"photographs": each.samples, "rows": each.rows}
                for name, each in trained.manifest.splits.items()
            },
        )  # fmt: skip


def read_json(run: Path, name: str) -> dict[str, Any]:
    """A file of a finished run.

    Raises:
        UserError: It is not there, or damaged.
    """
    try:
        content = json.loads((run / name).read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{run} is no finished run: it has no {name}") from None
    except ValueError:
        raise UserError(f"{run / name} is damaged: it is no JSON") from None
    if not isinstance(content, dict):
        raise UserError(f"{run / name} is damaged: expected a JSON object")
    return content


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The epochs of a run; none where it kept no record."""
    path = run / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    try:
        return [each for line in lines if "epoch" in (each := json.loads(line))]
    except ValueError:
        raise UserError(f"{path} is damaged: a line of it is no JSON") from None
