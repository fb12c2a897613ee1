"""``--resume`` without a folder: the newest unfinished run of a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shards.errors import UserError
from shards.reader import ShardSet
from train.checkpoints.checkpoint import LAST, has_checkpoint, previous
from train.checkpoints.folder import runs_folder
from train.config.recipes import TrainConfig
from train.config.source import ShardSource
from train.runs.log import CONFIG, SUMMARY

FEW = 5
"""Differing fields that a message names."""


def newest_unfinished(config: TrainConfig, source: ShardSource) -> Path:
    """The run that was saved last of those that this configuration and shard set began.

    Raises:
        UserError: There is none; the message says how the newest unfinished run differs.
    """
    folder = runs_folder()
    runs = sorted(
        (each for each in folder.glob("*/") if has_checkpoint(each) and not is_finished(each)),
        key=_saved_at,
        reverse=True,
    )
    fingerprint = ShardSet(source.directory).manifest.fingerprint
    problem = ""
    for run in runs:
        differences = _differences(run, config, fingerprint)
        if not differences:
            return run
        more = f" and {len(differences) - FEW} more" if len(differences) > FEW else ""
        problem = problem or f" (the newest, {run}, has {', '.join(differences[:FEW])}{more})"
    raise UserError(
        f"no unfinished run of this configuration in {folder}{problem}; name the run with --resume "
        "FOLDER, or drop --resume to start one"
    )


def is_finished(run: Path) -> bool:
    """Whether a run came to its summary."""
    return (run / SUMMARY).exists()


def _saved_at(run: Path) -> float:
    return max(
        each.stat().st_mtime for each in (run / LAST, previous(run / LAST)) if each.is_file()
    )


def _differences(run: Path, config: TrainConfig, fingerprint: str) -> list[str]:
    """How a run differs from what is asked for, as ``epochs 20, not 6``; empty where it does not."""
    try:
        record: dict[str, Any] = json.loads((run / CONFIG).read_text(encoding="utf-8"))
        theirs = TrainConfig.from_dict(record["config"]).to_dict()
        trained_on = record["shards"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return [f"no {CONFIG} that can be read"]
    ours = config.to_dict()
    found = [
        f"{name} {theirs.get(name)}, not {value}"
        for name, value in ours.items()
        if theirs.get(name) != value
    ]
    return found + (["another shard set"] if trained_on != fingerprint else [])
