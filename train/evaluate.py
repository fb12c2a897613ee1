"""``python -m train.evaluate CKPT``: the test row of a run once more, or of another split."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from shards.commands import HELP, run
from shards.errors import UserError
from train.interrupt import importing


@click.command(context_settings=HELP)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--split", default="test", help="Which split: train, val or test.")
@click.option(
    "--shards",
    metavar="FOLDER|URL",
    help="Shard set.  [default: that of the run]",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Also write JSON here.",
)
def main(checkpoint: Path, split: str, shards: str | None, json_file: Path | None) -> None:
    """Evaluate CHECKPOINT (a .pt file, or a run folder for its best one) on a split.

    Settings are those of the run: image size, precision, batch size, threads.
    """
    if json_file is not None:
        _check_folder_of(json_file)
    with importing():
        from train.evaluation import evaluate_checkpoint

    result = evaluate_checkpoint(checkpoint, split, shards)
    if json_file is not None:
        row = {"checkpoint": str(checkpoint), "split": split, **result.as_dict()}
        json_file.write_text(json.dumps(row, indent=1) + "\n")


def _check_folder_of(file: Path) -> None:
    """Raise :class:`UserError` where a file could not be made after all the work."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise UserError(f"--json {file}: no folder {folder}")
    if not file.exists() and not os.access(folder, os.W_OK):
        raise UserError(f"--json {file}: {folder} cannot be written; choose another place")


if __name__ == "__main__":
    run(main, "python -m train.evaluate")
