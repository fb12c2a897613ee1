"""``python -m train.export CKPT --format lightning``: a checkpoint for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from shards.commands import HELP, run
from shards.errors import UserError
from train.interrupt import importing

SUFFIXES = {"lightning": ".ckpt"}


@click.command(context_settings=HELP)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(SUFFIXES)),
    required=True,
    help="lightning: what the course's own eval.py loads.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="[default: beside CHECKPOINT]"
)
def main(checkpoint: Path, format_name: str, out: Path | None) -> None:
    """Write CHECKPOINT (a .pt file, or a run folder for its best one) in another format."""
    with importing():
        from train.checkpoint import checkpoint_file, load_checkpoint, save_plain
        from train.course import lightning_content

    file = checkpoint_file(checkpoint)
    target = out or file.with_suffix(SUFFIXES[format_name])
    if target.exists():
        raise UserError(f"{target} exists already; choose another --out")
    if not target.absolute().parent.is_dir():
        raise UserError(f"--out {target}: no folder {target.absolute().parent}")
    save_plain(target, lightning_content(load_checkpoint(file)))
    click.echo(f"wrote {target} ({format_name})")


if __name__ == "__main__":
    run(main, "python -m train.export")
