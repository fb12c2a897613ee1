"""Paths that a user names, checked before any work begins."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import click

from shards.errors import UserError


class _UserPath(click.Path):
    """A path that is not empty: ``""`` would mean the current folder, an unset variable meant none.

    The error is click's own for a bad value, which names the option.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


USER_PATH = _UserPath(path_type=Path)
"""The click type of every path on a command line."""


def require_regular_file(path: Path) -> Path:
    """``path``, if it can be read to its end: a pipe or a device might never have one.

    Raises:
        UserError: It is not there, may not be read, or is something else.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise UserError(f"{path} is {what}, expected a file")
    if not os.access(path, os.R_OK):
        raise UserError(f"cannot read {path}: Permission denied")
    return path


def require_output_folder(path: Path, what: str) -> Path:
    """``path``, if it is a folder that can be written to, or could be made.

    Nothing is left behind.

    Args:
        path: Where output is to go.
        what: What the folder is for, as the message calls it.

    Raises:
        UserError: It is a file, or lies where nothing can be written.
    """
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        place = path if existing == path.absolute() else existing
        raise UserError(f"{place} is a file, expected a folder for {what}")
    try:
        # Tried, not asked: permissions say nothing of read-only disks, of /proc, or to root.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to {path}: {existing} takes no files ({error.strerror}); choose another"
        ) from None
    return path
