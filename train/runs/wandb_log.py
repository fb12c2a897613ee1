"""Weights & Biases, for ``--wandb``: the same scalars and pictures as TensorBoard's.

Optional (extra ``wandb``), so it is imported by whoever asks for it. ``WANDB_MODE=offline`` needs
neither an account nor a network; ``wandb sync`` sends such a run later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from shards.errors import UserError
from train.runs.figures import Picture

ENV_FILE = Path(".env")
"""Of the current folder; ``.env.example`` shows what may stand in it."""
PREFIX = "WANDB_"
PROJECT = "hyphae"
RUN_ID = Path("wandb", "run-id.txt")
"""In the run folder: a resumed run goes on as the same one."""
WAY_OUT = "set WANDB_API_KEY (.env.example says where), or WANDB_MODE=offline, or drop --wandb"


def check_wandb() -> None:
    """Find out whether W&B can be used, before anything is made.

    On a terminal, W&B itself asks for a missing key.

    Raises:
        UserError: It is not installed, or has no key.
    """
    _read_env_file()
    wandb = _library()
    if os.environ.get("WANDB_MODE", "online") not in ("online", "shared"):
        return
    try:
        wandb.login()
    except (wandb.errors.Error, ValueError) as error:
        raise UserError(f"--wandb: {_first_line(error)}; {WAY_OUT}") from None


class WandbRun:
    """A run at W&B, or its offline copy in the run folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Start it, or go on with the one that ``folder`` began.

        Raises:
            UserError: W&B refuses, or cannot be reached.
        """
        self._wandb = _library()
        try:
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=folder.absolute().name,
                id=_run_id(folder),
                resume="allow",
                dir=str(folder),
                config=dict(config),
                settings=self._wandb.Settings(silent=True, console="off", disable_git=True),
            )
        except self._wandb.errors.Error as error:
            raise UserError(f"--wandb: {_first_line(error)}; {WAY_OUT}") from None
        self._run.define_metric("*", step_metric="samples_seen")

    def scalars(self, samples_seen: int, values: Mapping[str, float]) -> None:
        """Points of curves."""
        self._run.log({"samples_seen": samples_seen, **values})

    def figures(self, samples_seen: int, pictures: Mapping[str, Picture]) -> None:
        """Pictures."""
        images = {name: self._wandb.Image(picture) for name, picture in pictures.items()}
        self._run.log({"samples_seen": samples_seen, **images})

    def result(self, scores: Mapping[str, float]) -> None:
        """Final scores."""
        self._run.summary.update(dict(scores))

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def _library() -> Any:
    try:
        import wandb
    except ImportError:
        raise UserError("--wandb needs Weights & Biases: pip install 'hyphae[wandb]'") from None
    return wandb


def _read_env_file() -> None:
    """Take ``WANDB_*`` from ``.env``; what the environment has already stands."""
    if not ENV_FILE.is_file():
        return
    for line in ENV_FILE.read_text(encoding="utf-8").splitlines():
        name, _, value = (part.strip() for part in line.partition("="))
        if value and name.startswith(PREFIX):
            os.environ.setdefault(name, value.strip("\"'"))


def _run_id(folder: Path) -> str:
    file = folder / RUN_ID
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(uuid4().hex)
    return file.read_text()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
