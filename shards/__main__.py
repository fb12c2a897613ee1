"""``python -m shards``: look into a shard set, check it, publish a merged one.

Each command imports what it runs, so that all start at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from shards.commands import HELP, run
from shards.errors import JobError, UserError, unknown_name
from shards.machine import allowed_cores, counted, human_bytes
from shards.rejects import max_rejected_option
from shards.settings import require_path
from shards.user_paths import USER_PATH


@click.group(context_settings=HELP)
def main() -> None:
    """Look into a shard set."""


@main.command()
@click.argument("shards", type=USER_PATH, required=False)
def info(shards: Path | None) -> None:
    """Show what SHARDS holds, and how it was made.

    Splits, classes, sizes, repetition; what became of the photographs; options and versions.
    """
    from shards.describe import describe
    from shards.reader import ShardSet

    directory = require_path("shards_dir", shards, "SHARDS")
    click.echo(describe(directory, ShardSet(directory).manifest))


@main.command(name="verify")
@click.argument("shards", type=USER_PATH, required=False)
@click.option("--decode", is_flag=True, help="Also decode every image, strictly.")
@click.option("--threads", type=click.IntRange(1), help="At work at a time.  [allowed cores]")
def verify_command(shards: Path | None, decode: bool, threads: int | None) -> None:
    """Check SHARDS against its manifest.

    Every file, every table, and with --decode every image. Exit code 1 if anything is wrong; says
    which file to delete, and packing again restores it.
    """
    from shards.progress import Progress
    from shards.reader import ShardSet
    from shards.verify import verify

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
        raise JobError(f"{directory}: {counted(len(problems), 'problem')}")
    samples = sum(split.samples for split in shard_set.manifest.splits.values())
    decoded = ", every image decodes" if decode else ""
    click.echo(
        f"{directory}: {len(shard_set.manifest.files)} files, {samples:,} samples, "
        f"{human_bytes(total)}: all as the manifest says{decoded}"
    )


@main.command(name="ls")
@click.argument("shards", type=USER_PATH, required=False)
@click.option("--split", default="train", help="Which split.")
@click.option("--label", help="Only this class.")
def ls_command(shards: Path | None, split: str, label: str | None) -> None:
    """List the samples of a split.

    A line each: key, size, repeats, class, source path; control characters are escaped.
    """
    from shards.describe import printable
    from shards.format import key_name
    from shards.reader import ShardSet

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
                    f"x{record['repeats']}  {printable(name)}  "
                    f"{printable(opened.metadata(sample)['path'])}"
                )


@main.command(name="cat")
@click.argument("shards", type=USER_PATH)
@click.argument("key", type=int)
@click.option("--split", default="train", help="Which split.")
def cat_command(shards: Path, key: int, split: str) -> None:
    """Write the stored image of KEY to standard output.

    Such as `python -m shards cat SHARDS 42 > 42.jpg`. One that is stored as an array is written as
    .npy, which np.load reads.
    """
    import numpy as np

    from shards.format import key_name
    from shards.reader import ShardSet

    if sys.stdout.isatty():
        raise UserError(
            f"an image is no text for a terminal: > {key_name(key)}.jpg writes it to a file"
        )
    with ShardSet(shards).split(split, verify="always") as opened:
        found = np.flatnonzero(opened.samples["key"] == key)
        if not len(found):
            raise UserError(
                f"no sample {key_name(key)} in split {split} of {shards}; "
                f"`python -m shards ls` lists them"
            )
        payload = opened.payload(int(found[0]))
        try:
            sys.stdout.buffer.write(payload)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from None


@main.command(name="merge")
@click.argument("shards", type=USER_PATH)
@max_rejected_option
def merge_command(shards: Path, max_rejected: float | None) -> None:
    """Publish SHARDS once all its slices are packed.

    That is, after `python -m preprocess --task I/N` for every I.
    """
    from shards.describe import describe
    from shards.format import MANIFEST_NAME, WORK_NAME
    from shards.merge import merge

    if (shards / MANIFEST_NAME).is_file() and not (shards / WORK_NAME).exists():
        click.echo(f"{shards} is published already; nothing to merge")
    click.echo(describe(shards, merge(shards, max_rejected)))


if __name__ == "__main__":
    run(main, "python -m shards")
