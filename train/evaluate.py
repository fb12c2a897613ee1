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
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
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
def main(
    checkpoints: tuple[Path, ...], split: str, shards: str | None, json_file: Path | None
) -> None:
    """Evaluate CHECKPOINTS on a split; several make one table beside the published results.

    Each is a .pt file, a run folder (its best one), or a checkpoint of the course (.ckpt, .pth).
    Settings are those of the run, of a course's checkpoint those of the baseline recipe.
    """
    if json_file is not None:
        _check_folder_of(json_file)
    with importing():
        from train.checkpoint import checkpoint_file
        from train.comparison import comparison_table
        from train.course import load_trained
        from train.evaluation import evaluate_checkpoint

    if len(checkpoints) > 1:
        for each in checkpoints:  # the last is refused before the work on the first
            load_trained(checkpoint_file(each))
    rows = [evaluate_checkpoint(each, split, shards) for each in checkpoints]
    if len(rows) > 1:
        click.echo("\n".join(comparison_table(rows)))
    if json_file is not None:
        results = [
            {"checkpoint": str(path), "split": split, **row.result.as_dict()}
            for path, row in zip(checkpoints, rows, strict=True)
        ]
        content = results if len(results) > 1 else results[0]
        json_file.write_text(json.dumps(content, indent=1) + "\n")


def _check_folder_of(file: Path) -> None:
    """Raise :class:`UserError` where a file could not be made after all the work."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise UserError(f"--json {file}: no folder {folder}")
    if not file.exists() and not os.access(folder, os.W_OK):
        raise UserError(f"--json {file}: {folder} cannot be written; choose another place")


if __name__ == "__main__":
    run(main, "python -m train.evaluate")
