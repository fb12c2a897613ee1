"""Files that a command is to write: refused before the work rather than after it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from os.path import realpath  # which, unlike Path.resolve, bears links in a circle
from pathlib import Path

from shards.errors import UserError
from train.checkpoints.checkpoint import BEST, LAST, checkpoint_file, previous
from train.runs.log import CONFIG, LOG, METRICS, STEPS, SUMMARY

RECORD = (BEST, LAST, previous(Path(LAST)).name, CONFIG, SUMMARY, METRICS, STEPS, LOG)
"""Files of a run folder that no other command writes."""


def check_writable(option: str, file: Path) -> None:
    """Raise :class:`UserError` where a file could not be made after all the work."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise UserError(f"{option} {file}: no folder {folder}")
    if os.path.islink(realpath(file)):  # links that are followed to their end leave none
        raise UserError(f"{option} {file} links in a circle; choose another place")
    if not file.exists() and not os.access(folder, os.W_OK):
        raise UserError(f"{option} {file}: {folder} cannot be written; choose another place")


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """Refuse what could not be written, and what would replace something that is read.

    Args:
        outputs: Files by option; None where one was not given.
        inputs: Files that the command reads.

    Raises:
        UserError: The message names the option.
    """
    taken = {realpath(each) for each in inputs}
    for option, file in outputs.items():
        if file is None:
            continue
        check_writable(option, file)
        if realpath(file) in taken:
            raise UserError(
                f"{option} {file} would replace what this command reads or writes elsewhere; name "
                "another file"
            )
        taken.add(realpath(file))


def record_of(checkpoint: Path) -> list[Path]:
    """A checkpoint and the files of its run that nothing may replace."""
    file = checkpoint_file(checkpoint)
    return [file, *(file.parent / name for name in RECORD)]
