"""Files that a command is to write: refused before the work rather than after it."""

from __future__ import annotations

import os
from pathlib import Path

from shards.errors import UserError


def check_writable(option: str, file: Path) -> None:
    """Raise :class:`UserError` where a file could not be made after all the work."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise UserError(f"{option} {file}: no folder {folder}")
    if not file.exists() and not os.access(folder, os.W_OK):
        raise UserError(f"{option} {file}: {folder} cannot be written; choose another place")
