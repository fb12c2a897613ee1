"""What the commands that pack share: announce, pack with a progress bar, sum up."""

from __future__ import annotations

import time
from pathlib import Path

import click

from preprocess.add import num_to_compare, refuse_copies
from preprocess.catalog import Catalog
from preprocess.executors import dask_executor, local_executor
from preprocess.image import ImageOptions
from preprocess.options import PackOptions
from preprocess.pack import (
    OnProgress,
    changed_photos,
    expected_bytes,
    pack,
    pack_slice,
    refuse_unfit,
    shown,
)
from preprocess.shard_task import ShardTask
from preprocess.summary import log_run, summary
from shards.commands import stop_on_signals
from shards.errors import UserError
from shards.format import LABEL_DIGITS, MANIFEST_NAME, WORK_NAME
from shards.machine import free_disk, human_bytes
from shards.progress import Progress
from shards.shard_report import ShardReport


def pack_catalog(
    catalog: Catalog,
    data: Path,
    out: Path,
    options: PackOptions,
    start: float,
    *,
    refuse: bool = False,
) -> None:
    """Pack what was found, with a progress bar, and say what became of it.

    Args:
        catalog: What to pack.
        data: Where it came from.
        out: Folder for the set.
        options: How.
        start: When the command began, by ``time.perf_counter``.
        refuse: Leave out added photographs that are copies of val or test photographs.
    """
    finished = (out / MANIFEST_NAME).exists()
    goes_on = f"stopped; finished shards are kept in {out}: run the same command again to go on"
    with (
        stop_on_signals(goes_on),  # outermost: further signals wait until the workers have ended
        dask_executor(options.dask)
        if options.dask
        else local_executor(options.workers) as executor,
    ):
        if refuse:
            with Progress("comparing", num_to_compare(catalog), "photos") as progress:
                catalog = refuse_copies(catalog, out, executor, progress.update)
        announce(catalog, data, out, options.image, options.workers)
        with Progress("packing", sum(map(len, catalog.splits.values())), "photos") as progress:
            on_progress = _progress_of(progress)
            if options.task is not None:
                pack_slice(
                    catalog, out, options.image, executor, options.task, on_progress=on_progress
                )
                index, count = options.task
                if finished:
                    click.echo(f"{out} is published already, made of the same; nothing to do")
                    return
                click.echo(
                    f"slice {index}/{count} is packed; once all {count} are: "
                    f'python -m shards merge "{out}"'
                )
                return
            again = 0

            def counted(task: ShardTask, report: ShardReport, new: bool) -> None:
                nonlocal again
                again += new
                on_progress(task, report, new)

            manifest = pack(
                catalog,
                out,
                options.image,
                executor,
                max_rejected=options.max_rejected,
                on_progress=counted,
            )
    if finished:
        if again:
            click.echo(f"{out} lacked {again} of its shards; made again")
        else:
            click.echo(f"{out} is complete already, made of the same; nothing to do")
    else:
        log_run(out, data, options.workers, time.perf_counter() - start)
    click.echo(summary(manifest, out, time.perf_counter() - start))


def announce(catalog: Catalog, data: Path, out: Path, options: ImageOptions, workers: int) -> None:
    """Say what was found and what it will take; refuse what cannot be packed, or has no room."""
    classes = len(catalog.class_names)
    if classes > 10**LABEL_DIGITS:
        raise UserError(
            f"{data} has {classes:,} classes; a shard set takes at most {10**LABEL_DIGITS:,}"
        )
    for name, split in catalog.splits.items():
        if not len(split):
            raise UserError(
                f"{data} has too few photographs: split {name} is empty; a class needs 4 or more to "
                "be split, or sort them into train/, val/ and test/ folders"
            )
    for note in catalog.notes:
        click.echo(f"note: {note}")
    refuse_unfit(catalog, out, options)
    if (out / MANIFEST_NAME).exists():
        return
    needed = expected_bytes(catalog, options)
    free = free_disk(out)
    files = sum(map(len, catalog.splits.values()))
    unfinished = (out / WORK_NAME).exists()
    if unfinished and (changed := changed_photos(catalog, out, options)):
        click.echo(f"note: {shown(changed)} modified since; their shards are made again")
    if needed > free and not unfinished:
        raise UserError(
            f"the disk of {out} is too full: up to {human_bytes(needed)} needed, "
            f"{human_bytes(free)} free; free some room, or choose a smaller --short-side"
        )
    click.echo(
        f"{'going on' if unfinished else 'packing'} {data}: {files:,} photographs of "
        f"{classes} classes ({catalog.layout}), up to about {human_bytes(needed)}, "
        f"{workers} workers"
    )


def _progress_of(progress: Progress) -> OnProgress:
    megabytes, start = 0.0, time.perf_counter()

    def on_progress(task: ShardTask, report: ShardReport, new: bool) -> None:
        nonlocal megabytes
        if not new:
            progress.skip(len(task.paths))
            return
        megabytes += report.bytes_read / 1e6
        progress.update(
            len(task.paths), f"{megabytes / (time.perf_counter() - start):.1f} MB/s read"
        )

    return on_progress
