"""``python -m train.export CKPT --format lightning``: a checkpoint for other programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from shards.commands import HELP, run
from shards.errors import UserError
from train.runs.interrupt import importing

SUFFIXES = {
    "lightning": ".ckpt",
    "onnx": ".onnx",
    "torch-export": ".pt2",
    "safetensors": ".safetensors",
}
COMPARED = 200
"""Photographs on which an exported file is compared with PyTorch."""


@click.command(context_settings=HELP)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(SUFFIXES)),
    required=True,
    help="lightning: what the course's own eval.py loads; onnx and torch-export: uint8 images in, "
    "calibrated probabilities out; safetensors: the weights.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A new file.  [default: beside CHECKPOINT, its name with .ckpt, .onnx, .int8.onnx, .pt2 or "
    ".safetensors]",
)
@click.option(
    "--shards",
    metavar="FOLDER",
    help="Shard set on which to compare the file with PyTorch.  [default: that of the run]",
)
@click.option(
    "--int8",
    is_flag=True,
    help="With onnx: 8-bit integers for CPUs; what they cost on test is printed and noted in the file.",
)
def main(
    checkpoint: Path, format_name: str, out: Path | None, shards: str | None, int8: bool
) -> None:
    """Write CHECKPOINT (a .pt file, or a run folder for its best one) in another format.

    Checkpoints of the course are not taken: their classes and pixels are not in them. All but lightning are compared with PyTorch on photographs of the test split.
    """
    with importing():
        from train.checkpoints.checkpoint import checkpoint_file, load_checkpoint, save_plain
        from train.checkpoints.course import lightning_content

    if int8 and format_name != "onnx":
        raise UserError(f"--int8 is for --format onnx, not {format_name}")
    file = checkpoint_file(checkpoint)
    target = out or file.with_suffix(".int8" * int8 + SUFFIXES[format_name])
    if target.exists():
        raise UserError(f"{target} exists already; choose another --out")
    if not target.absolute().parent.is_dir():
        raise UserError(f"--out {target}: no folder {target.absolute().parent}")
    saved = load_checkpoint(file)
    if int8 and saved.config.hierarchy_loss == "prototypes":
        raise UserError(
            "--int8 is for networks that end in a linear layer, and this one ends in prototypes; export it "
            "without --int8"
        )
    if format_name == "lightning":
        save_plain(target, lightning_content(saved))
        click.echo(f"wrote {target} ({format_name})")
        return
    with importing():
        from train.config.resolve import resolve
        from train.inference.exported import EXPORTERS, compare_with, deployment
        from train.inference.exported_images import images_to_compare, set_of
        from train.inference.quantised import quantise_file

    folder = set_of(saved, shards)
    if int8 and folder is None:
        raise UserError(
            "--int8 needs photographs to find the range of every layer, and the shard set of the run "
            f"({saved.shards.directory}) is not here; pass --shards"
        )
    resolved = resolve(replace(saved.config, device="cpu", precision="fp32", compile="off"))
    images = images_to_compare(saved, resolved, shards, COMPARED)
    if not saved.progress.temperature:
        click.echo("note: the checkpoint holds no temperature, so probabilities are not calibrated")
    deployed = deployment(saved, file, resolved)
    with completed(target) as unfinished:
        agreement = None
        runner = EXPORTERS[format_name](deployed, unfinished)
        if images:
            agreement = compare_with(runner, deployed, images)
            agreement.check(target)
        cost = None
        if int8 and folder is not None:
            cost = quantise_file(unfinished, deployed, saved, resolved, folder)
    click.echo(f"wrote {target} ({format_name})")
    if agreement is None:
        click.echo("not compared with PyTorch: the shard set of the run is not here; pass --shards")
    else:
        click.echo(
            f"compared with PyTorch on {agreement.images} photographs: {agreement.flips} other "
            f"labels, probabilities differ by at most {agreement.apart:.1g}{' in floats' * int8}"
        )
    if cost is not None:
        click.echo(str(cost))


@contextmanager
def completed(target: Path) -> Iterator[Path]:
    """A name for a file in the making, which takes its own when all went well."""
    unfinished = target.with_name(f"{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    run(main, "python -m train.export")
