"""Checkpoints: tensors and plain data only, written atomically, loaded without running code."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from shards.errors import JobError, UserError
from shards.machine import free_disk
from shards.writer import atomic_file
from train.models import Classifier, create_model
from train.recipes import TrainConfig

CHECKPOINT_VERSION = 1
LAST, BEST = "last.pt", "best.pt"
NEARLY_FULL = 1 << 30
"""Free bytes under which a failed write is put down to a full disk."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; a crash or a full disk leaves the previous one as it was."""
    try:
        with atomic_file(path) as file:
            torch.save({"hyphae_checkpoint": CHECKPOINT_VERSION, **content}, file)
    except RuntimeError as error:  # torch's archive writer wraps what the disk refused
        if free_disk(path.parent) > NEARLY_FULL:
            raise
        raise JobError(
            f"cannot write {path}: the disk is full; free some room, then go on with --resume"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing in it is executed.

    Raises:
        UserError: No such file, damaged, or not a checkpoint of ours.
    """
    if path.is_dir():
        path = path / BEST
    if not path.is_file():
        raise UserError(f"no checkpoint {path}")
    _check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's, before its error says the same
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} holds more than tensors and plain data, so it is not loaded: it is not a "
            "checkpoint of hyphae, and loading it could run code"
        ) from None
    except Exception as error:  # a parser of foreign bytes raises whatever it meets
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged or no checkpoint: {first_line}") from None
    version = content.get("hyphae_checkpoint") if isinstance(content, dict) else None
    if version != CHECKPOINT_VERSION:
        raise UserError(
            f"{path} is not a checkpoint of this hyphae (version {version!r}, expected "
            f"{CHECKPOINT_VERSION})"
        )
    return dict(content)


def _check_archive(path: Path) -> None:
    """Refuse what is no zip archive, and one whose content does not match its check sums.

    torch itself checks no sums: most flipped bits would load without a word.
    """
    damaged: str | None = "the archive itself"
    try:
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path} is no checkpoint: not an archive that torch.save wrote")
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError):
        pass
    if damaged is not None:
        raise UserError(f"{path} is damaged: check sums do not match ({damaged})")


def model_from_checkpoint(content: dict[str, Any]) -> tuple[Classifier, TrainConfig]:
    """The trained model, on the CPU, and the configuration of its run."""
    config = TrainConfig.from_dict(content["config"])
    model = create_model(config.arch, len(content["class_names"]), config.mean, config.std)
    model.backbone.load_state_dict(content["model"], strict=True)
    return model, config
