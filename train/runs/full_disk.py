"""A full disk ends a run in one line, whichever of its files meets it first."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.commands import describe_os_error
from shards.errors import JobError
from train.checkpoints.checkpoint import has_checkpoint
from train.checkpoints.folder import is_throwaway, resume_command

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def full_disk_as_job_error(folder: Path) -> Iterator[None]:
    """Turn what a full disk makes Python raise within into one line that says how to go on.

    TensorBoard writes in a thread: what it meets is raised where the next value is recorded, so its
    traceback is not printed, too.

    Raises:
        JobError: The disk is full.
    """
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not _is_full(args.exc_value):
            before(args)

    threading.excepthook = hook
    try:
        yield
    except OSError as error:
        if not _is_full(error):
            raise
        way_on = "start again"
        if has_checkpoint(folder) and not is_throwaway(folder):
            way_on = f"go on from the last checkpoint: {resume_command(folder)}"
        raise JobError(f"{describe_os_error(error)}; free some room, then {way_on}") from None
    finally:
        threading.excepthook = before


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in FULL
