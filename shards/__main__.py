"""``python -m shards``: look into a shard set, check it, publish a merged one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np

from shards.commands import HELP, run
from shards.errors import JobError, UserError, unknown_name
from shards.format import Manifest, key_name
from shards.job import finish_job
from shards.machine import allowed_cores, human_bytes
from shards.progress import Progress
from shards.reader import ShardSet
from shards.settings import require_path
from shards.verify import verify


@click.group(context_settings=HELP)
def main() -> None:
    """Look into a shard set."""


@main.command()
@click.argument("shards", type=click.Path(path_type=Path), required=False)
def info(shards: Path | None) -> None:
    """Show what SHARDS holds: splits, classes, sizes, repetition, how it was made."""
    directory = require_path("shards_dir", shards, "SHARDS")
    click.echo(describe(directory, ShardSet(directory).manifest))


@main.command(name="verify")
@click.argument("shards", type=click.Path(path_type=Path), required=False)
@click.option("--decode", is_flag=True, help="Also decode every image, strictly.")
@click.option("--threads", type=click.IntRange(1), help="At work at a time.  [allowed cores]")
def verify_command(shards: Path | None, decode: bool, threads: int | None) -> None:
    """Check SHARDS against its manifest: every file, every table, and with --decode every image.

    Exit code 1 if anything is wrong; says which file to delete, and packing again restores it.
    """
    directory = require_path("shards_dir", shards, "SHARDS")
    shard_set = ShardSet(directory)
    total = sum(info.bytes for info in shard_set.manifest.files.values())
    with Progress("verifying", total, "B") as progress:
        problems = verify(
            shard_set, decode=decode, threads=threads or allowed_cores(), on_file=progress.update
        )
    for problem in problems:
        click.echo(f"{problem.file}: {problem.what}\n  {problem.remedy}")
    if problems:
        raise JobError(f"{directory}: {len(problems)} problems")
    samples = sum(split.samples for split in shard_set.manifest.splits.values())
    decoded = ", every image decodes" if decode else ""
    click.echo(
        f"{directory}: {len(shard_set.manifest.files)} files, {samples:,} samples, "
        f"{human_bytes(total)}: all as the manifest says{decoded}"
    )


@main.command(name="ls")
@click.argument("shards", type=click.Path(path_type=Path), required=False)
@click.option("--split", default="train", help="Which split.")
@click.option("--label", help="Only this class.")
def ls_command(shards: Path | None, split: str, label: str | None) -> None:
    """List the samples of a split: key, class, repeats, size, source path."""
    directory = require_path("shards_dir", shards, "SHARDS")
    shard_set = ShardSet(directory)
    names = shard_set.manifest.class_names
    if label is not None and label not in names:
        raise UserError(unknown_name("class", label, names))
    with shard_set.split(split) as opened:
        for sample, record in enumerate(opened.samples):
            name = names[record["label"]]
            if label in (None, name):
                click.echo(
                    f"{key_name(record['key'])}  {record['width']}x{record['height']}  "
                    f"x{record['repeats']}  {name}  {opened.metadata(sample)['path']}"
                )


@main.command(name="cat")
@click.argument("shards", type=click.Path(path_type=Path))
@click.argument("key", type=int)
@click.option("--split", default="train", help="Which split.")
def cat_command(shards: Path, key: int, split: str) -> None:
    """Write the stored image of KEY to standard output: `... cat SHARDS 42 > 42.jpg`."""
    with ShardSet(shards).split(split, verify="always") as opened:
        found = np.flatnonzero(opened.samples["key"] == key)
        if not len(found):
            raise UserError(
                f"no sample {key_name(key)} in split {split} of {shards}; "
                f"`python -m shards ls` lists them"
            )
        sys.stdout.buffer.write(opened.payload(int(found[0])))


@main.command(name="merge")
@click.argument("shards", type=click.Path(path_type=Path))
@click.option(
    "--max-rejected",
    default=1.0,
    type=click.FloatRange(0, 100),
    help="Percentage of photographs that may be unusable.",
)
def merge_command(shards: Path, max_rejected: float) -> None:
    """Publish SHARDS once all slices of `python -m preprocess --task I/N` are packed."""
    click.echo(describe(shards, finish_job(shards, max_rejected / 100)))


def describe(directory: Path, manifest: Manifest) -> str:
    """The table that ``info`` prints."""
    lines = [f"{directory}: {manifest.num_classes} classes, format {manifest.format_version}"]
    lines.append(
        f"{'split':<8}{'rows':>10}{'files':>9}{'rows/file':>11}{'samples':>9}{'rejected':>10}"
        f"{'shards':>8}{'size':>11}"
    )
    lines += [
        f"{name:<8}{each.rows:>10,}{each.files:>9,}{each.repetition:>11.2f}{each.samples:>9,}"
        f"{each.files - each.samples:>10,}{each.shards:>8}{human_bytes(each.bytes):>11}"
        for name, each in manifest.splits.items()
    ]
    lines.append("stored    " + _pairs(manifest.stored))
    if manifest.rejected:
        lines.append("rejected  " + _pairs(manifest.rejected) + " (see rejected.csv)")
    lines += [
        f"pixels    {plan}: mean ({_triple(each.mean)}), std ({_triple(each.std)})"
        for plan, each in manifest.pixels.items()
    ]
    if manifest.originals:
        lines.append("originals " + _pairs(manifest.originals))
    if manifest.sources:
        lines.append("added     " + _pairs(manifest.sources))
    lines.append("options   " + _pairs(manifest.options))
    lines.append("versions  " + _pairs(manifest.versions))
    return "\n".join(lines)


def _pairs(mapping: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in mapping.items())


def _triple(values: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


if __name__ == "__main__":
    run(main, "python -m shards")
