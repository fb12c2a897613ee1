"""The run folder: refused early, made late, held by one process at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from shards.errors import UserError
from shards.settings import path_setting, refuse_code_folder
from train.config.config import TrainConfig

LOCK = ".lock"
THROWAWAY = "hyphae-fast-dev-run-"
"""What the name of a folder that is removed begins with."""


def runs_folder() -> Path:
    """Where runs go by default: the log folder of this machine, else ``runs``."""
    return path_setting("log_dir") or Path("runs")


def default_folder(config: TrainConfig) -> Path:
    """``runs/<arch>-<recipe>-<time>`` below the log folder of this machine; it does not exist."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{config.arch}-{config.recipe}-{stamp}"
    folders = runs_folder()
    taken = (f"{name}-{number}" for number in count(2))  # several runs may start in a second
    return next(folders / each for each in chain([name], taken) if not (folders / each).exists())


def check_new_folder(folder: Path) -> None:
    """Raise :class:`UserError` where no new run can be written to ``folder``; makes nothing."""
    refuse_code_folder(folder, "output folder")
    if folder.exists():
        _refuse_content(folder)
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not existing.is_dir():
        raise UserError(f"output folder {folder}: {existing} is a file; choose another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"output folder {folder}: {existing} cannot be written; choose another")


@contextmanager
def new_folder(folder: Path | None, config: TrainConfig) -> Iterator[Path]:
    """Make and hold the folder of a run: ``folder``, or where that is None, the default one.

    Raises:
        UserError: It cannot be made, or another process was quicker.
    """
    made = _make(folder, config)
    with held(made):
        _refuse_content(made)
        yield made


@contextmanager
def throwaway_folder() -> Iterator[Path]:
    """The folder of a trial, among the system's temporary ones; it goes away with all in it."""
    with TemporaryDirectory(prefix=THROWAWAY) as made:
        yield Path(made)


def is_throwaway(folder: Path) -> bool:
    """Whether a folder is that of a trial: no message may send anybody there."""
    return folder.name.startswith(THROWAWAY)


def resume_command(folder: Path) -> str:
    """What to type to continue a run."""
    return f'python -m train --resume "{folder}"'


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes from a run; the lock ends with the process, however it ends.

    Raises:
        UserError: Another process holds it.
    """
    try:
        file = (folder / LOCK).open("a")
    except OSError as error:
        raise UserError(f"run folder {folder} cannot be written: {error.strerror}") from None
    with file:
        try:
            # Not flock: a loader's processes would inherit it, and outlive a killed run by seconds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UserError(
                f"run folder {folder} is in use by another process; wait for it, or stop it"
            ) from None
        except OSError:
            click.echo(f"note: no locks where {folder} lies: start it only once", err=True)
        yield


def _make(wanted: Path | None, config: TrainConfig) -> Path:
    while True:
        folder = wanted or default_folder(config)
        try:
            folder.mkdir(parents=True, exist_ok=wanted is not None)
        except FileExistsError:
            if wanted is None:
                continue  # another run took the name in the meantime
            raise UserError(f"output folder {folder} is a file; choose another") from None
        except OSError as error:
            raise UserError(
                f"cannot create output folder {folder}: {error.strerror}; choose another"
            ) from None
        return folder


def _refuse_content(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"output folder {folder} is a file; choose another, or --resume a run")
    if any(each.name != LOCK for each in folder.iterdir()):
        raise UserError(
            f"output folder {folder} holds something already; choose another, or --resume a run"
        )
