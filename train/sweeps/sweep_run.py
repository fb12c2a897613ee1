"""One run of a sweep: new, gone on with, or finished before; a failure is an outcome, too."""

from __future__ import annotations

import gc
import json
import shutil
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from shards.errors import Interrupted, UserError
from train.checkpoints.checkpoint import has_checkpoint
from train.checkpoints.folder import held
from train.config.grid import Point
from train.config.safety import Safety
from train.config.source import ShardSource
from train.engine.run import resume_run, start_run
from train.runs.log import SUMMARY

TRACEBACK = "traceback.txt"
"""In the folder of a run that ended with an error nobody foresaw."""

State = Literal["finished", "to go on with", "to start"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a run."""

    values: Mapping[str, Any]
    """Of the fields that vary."""
    folder: Path | None
    """None where it failed before it had one."""
    summary: Mapping[str, Any] | None
    """Of a finished run."""
    error: str = ""
    """Why it failed."""


def state_of(folder: Path) -> State:
    """What a sweep has to do about the run that belongs into ``folder``."""
    if (folder / SUMMARY).is_file():
        return "finished"
    return "to go on with" if has_checkpoint(folder) else "to start"


def run_point(point: Point, folder: Path, source: ShardSource, safety: Safety) -> Outcome:
    """Bring a run to its end, from wherever it is.

    Raises:
        Interrupted: A signal or the time limit asked to stop; the run is saved.
    """
    try:
        summary = _finish(point, folder, source, safety)
    except (Interrupted, BrokenPipeError):
        raise
    except UserError as error:
        return _failed(point, folder, error.format_message())
    except Exception as error:  # what one run dies of must not stop the others
        if folder.is_dir():
            (folder / TRACEBACK).write_text(traceback.format_exc(), encoding="utf-8")
        first_line = str(error).strip().partition("\n")[0]
        return _failed(point, folder, f"{type(error).__name__}: {first_line}")
    finally:
        _forget_run()
    return Outcome(values=point.values, folder=folder, summary=summary)


def _finish(point: Point, folder: Path, source: ShardSource, safety: Safety) -> Mapping[str, Any]:
    state = state_of(folder)
    if state == "finished":
        return read_summary(folder)
    if state == "to go on with":
        return resume_run(folder, str(source.url or source.directory), safety)
    if folder.exists():  # killed or failed before its first checkpoint: nothing to keep
        with held(folder):
            shutil.rmtree(folder)
    return start_run(point.config, source, folder, safety)


def read_summary(folder: Path) -> Mapping[str, Any]:
    """The final scores of a finished run.

    Raises:
        UserError: They cannot be read.
    """
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return {**summary, "val_miou": float(summary["val_miou"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder / SUMMARY} is damaged; remove {folder} to train it again"
        ) from None


def _failed(point: Point, folder: Path, error: str) -> Outcome:
    made = folder if folder.is_dir() else None
    return Outcome(values=point.values, folder=made, summary=None, error=error)


def _forget_run() -> None:
    """Free what a run held: the next one needs the memory."""
    gc.collect()
    torch.compiler.reset()  # after eight models of one class it would no longer compile
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
