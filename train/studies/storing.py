"""What a study found, stored in the checkpoint that it was about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from train.checkpoints.checkpoint import CHECKPOINT_VERSION, MARK, load_content, save_plain
from train.checkpoints.folder import held


def store(file: Path, **fields: Any) -> None:
    """Add fields to a checkpoint, all or nothing; a run that is at work in its folder is left alone.

    Args:
        file: The checkpoint.
        fields: Plain data and tensors.

    Raises:
        UserError: It is none of ours, or its run is at work.
    """
    with held(file.parent):
        save_plain(file, {MARK: CHECKPOINT_VERSION, **load_content(file), **fields})
