"""``python -m preprocess``: photographs -> shard set; audits them, adopts, draws a demo set."""

from __future__ import annotations

import time
from pathlib import Path

import click

from preprocess.add import add_photos, num_to_compare, refuse_copies
from preprocess.adopt import read_names, read_webdataset
from preprocess.audit import audit, photos_of, report, write_audit
from preprocess.catalog import Catalog
from preprocess.copies import DEFAULT_THRESHOLD
from preprocess.demo_data import draw_demo_data, num_demo_photos
from preprocess.discover import read_catalog
from preprocess.exclude import exclude_copies
from preprocess.executors import dask_executor, local_executor
from preprocess.image import ImageOptions
from preprocess.options import PackOptions, pack_options, patterns_of
from preprocess.pack import OnProgress, expected_bytes, pack, pack_slice
from preprocess.photo_hash import require_imagehash
from preprocess.shard_task import ShardTask
from preprocess.summary import log_run, summary
from shards.commands import HELP, run, stop_on_signals
from shards.errors import UserError
from shards.format import MANIFEST_NAME, WORK_NAME
from shards.machine import allowed_cores, free_disk, human_bytes, human_time
from shards.progress import Progress
from shards.settings import refuse_code_folder, require_path
from shards.shard_report import ShardReport


class _PackByDefault(click.Group):
    """``python -m preprocess DATA`` packs; the other jobs are named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        helps = set(ctx.help_option_names)
        if not args or (args[0] not in self.commands and args[0] not in helps):
            args = ["pack", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_PackByDefault, context_settings=HELP)
def main() -> None:
    """Photographs -> shard set. `python -m preprocess DATA --out SHARDS` is short for `pack`."""


@main.command(name="pack", context_settings=HELP)
@click.argument("data", type=click.Path(path_type=Path), required=False)
@pack_options
@click.option(
    "--add",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="SOURCE.csv",
    help="Add photographs to train: columns file, label and any of latitude, longitude, date, url, "
    "licence, source, or as GBIF and iNaturalist export them. Copies of val and test photographs "
    "are refused.  [repeatable]",
)
@click.option(
    "--exclude",
    type=click.Path(path_type=Path),
    metavar="AUDIT.csv",
    help="Leave out of train what an audit found: every copy of a val or test photograph, copies "
    "that bear different labels, and of copies under one label all but the first.",
)
def pack_command(
    data: Path | None, options: PackOptions, add: tuple[Path, ...], exclude: Path | None
) -> None:
    """Pack DATA once into checked, resized WebDataset shards.

    DATA is the Kaggle layout (train.csv, val.csv, test.csv and merged_dataset/) or folders of
    classes. DATA and --out have per-machine defaults: HYPHAE_DATA_DIR and HYPHAE_SHARDS_DIR, or
    local.toml. A run that was stopped goes on where it was; a finished set is left alone.
    """
    data = require_path("data_dir", data, "DATA")
    out = options.require_out()
    if options.dask:  # other machines have other current folders
        data, add = data.absolute(), tuple(file.absolute() for file in add)
    if add:
        require_imagehash("--add")
    start = time.perf_counter()
    catalog = read_catalog(data, seed=options.seed, max_missing=options.max_rejected)
    if add:
        catalog = add_photos(
            catalog, list(add), seed=options.seed, max_missing=options.max_rejected
        )
    if exclude:
        catalog = exclude_copies(catalog, exclude)
    pack_catalog(catalog, data, out, options, start, refuse=bool(add))


@main.command(name="adopt", context_settings=HELP)
@click.argument("folder", type=click.Path(path_type=Path))
@pack_options
@click.option(
    "--split",
    "splits",
    multiple=True,
    callback=patterns_of,
    metavar="SPLIT=PATTERN",
    help="Which tars are of which split: train='part-00*.tar'.  [default: by the names of the tars "
    "or their folders, train*, val*, test*; repeatable]",
)
@click.option(
    "--classes",
    type=click.Path(path_type=Path),
    help="Class names, one a line, that numeric labels count.  [default: class_names.txt or "
    "classes.txt in FOLDER, else the numbers]",
)
def adopt_command(
    folder: Path, options: PackOptions, splits: dict[str, str], classes: Path | None
) -> None:
    """Pack a foreign WebDataset FOLDER anew: the same checks, the same guarantees.

    FOLDER holds .tar files of samples <key>.jpg, .jpeg, .png or .webp with <key>.cls (a number or
    a name) or a <key>.json with a label. It is only read. Stopped, it goes on as packing does.
    """
    out = options.require_out()
    folder = folder.absolute() if options.dask else folder
    start = time.perf_counter()
    names = read_names(classes) if classes else None
    catalog = read_webdataset(folder, splits=splits, class_names=names, seed=options.seed)
    pack_catalog(catalog, folder, out, options, start)


@main.command(name="audit", context_settings=HELP)
@click.argument("data", type=click.Path(path_type=Path), metavar="DATA|SHARDS", required=False)
@click.option(
    "--out", type=click.Path(path_type=Path), default="audit", help="Folder for what is found."
)
@click.option(
    "--threshold",
    type=click.IntRange(0, 16),
    default=DEFAULT_THRESHOLD,
    help="Bits of 64 by which the hashes of near copies may differ.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: allowed cores]")
@click.option("--seed", default=0, type=click.IntRange(0), help="Of a split made here.")
def audit_command(
    data: Path | None, out: Path, threshold: int, workers: int | None, seed: int
) -> None:
    """Find copies: inside a split, across splits (leakage) and across labels (contradictions).

    Writes audit.csv, a row a pair, and contact sheets of the worst. Pack with --exclude
    audit.csv to leave them out of train; delete the rows of pairs that you want to keep.
    """
    data = require_path("data_dir", data, "DATA|SHARDS")
    refuse_code_folder(out, "output folder")
    require_imagehash("audit")
    start = time.perf_counter()
    photos = photos_of(data, seed=seed)
    with (
        stop_on_signals("stopped; nothing is written"),
        local_executor(workers or allowed_cores()) as executor,
        Progress("hashing", len(photos), "photos") as progress,
    ):
        found = audit(photos, executor, threshold=threshold, on_hashed=progress.update)
    files = write_audit(found, out)
    click.echo(report(found))
    click.echo(
        f"{len(photos):,} photographs in {human_time(time.perf_counter() - start)}: "
        f"{', '.join(map(str, files))}"
    )


@main.command(name="demo-data", context_settings=HELP)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=0, type=click.IntRange(0), help="Of everything that is drawn.")
@click.option("--train-files", default=40, type=click.IntRange(4), help="Of the largest class.")
@click.option(
    "--eval-files", default=10, type=click.IntRange(1), help="Per class, for val and for test."
)
def demo_data_command(out: Path, seed: int, train_files: int, eval_files: int) -> None:
    """Draw a data set of mushrooms in the Kaggle layout into OUT."""
    refuse_code_folder(out, "output folder")
    start = time.perf_counter()
    total = num_demo_photos(train_files, eval_files)
    with Progress("drawing", total, "photos") as progress:
        try:
            drawn = draw_demo_data(
                out,
                seed=seed,
                train_files=train_files,
                eval_files=eval_files,
                progress=progress.update,
            )
        except FileExistsError as error:
            raise UserError(str(error)) from None
    click.echo(f"{out}: {drawn} in {human_time(time.perf_counter() - start)}")


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
                click.echo(
                    f"slice {index}/{count} is packed; once all {count} are: "
                    f'python -m shards merge "{out}"'
                )
                return
            manifest = pack(
                catalog,
                out,
                options.image,
                executor,
                max_rejected=options.max_rejected,
                on_progress=on_progress,
            )
    if finished:
        click.echo(f"{out} is complete already and matches; nothing to do")
    else:
        log_run(out, data, options.workers, time.perf_counter() - start)
    click.echo(summary(manifest, out, time.perf_counter() - start))


def announce(catalog: Catalog, data: Path, out: Path, options: ImageOptions, workers: int) -> None:
    """Say what was found and what it will take; refuse an empty split, and a disk too full."""
    for name, split in catalog.splits.items():
        if not len(split):
            raise UserError(
                f"{data} has too few photographs: split {name} is empty; a class needs 4 or more to "
                "be split, or sort them into train/, val/ and test/ folders"
            )
    for note in catalog.notes:
        click.echo(f"note: {note}")
    needed = expected_bytes(catalog, options)
    free = free_disk(out)
    files = sum(map(len, catalog.splits.values()))
    unfinished = (out / WORK_NAME).exists()
    if (out / MANIFEST_NAME).exists():
        return
    if needed > free and not unfinished:
        raise UserError(
            f"the disk of {out} is too full: up to {human_bytes(needed)} needed, "
            f"{human_bytes(free)} free; free some room, or choose a smaller --short-side"
        )
    click.echo(
        f"{'going on' if unfinished else 'packing'} {data}: {files:,} photographs of "
        f"{len(catalog.class_names)} classes ({catalog.layout}), up to about {human_bytes(needed)}, "
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


if __name__ == "__main__":
    run(main, "python -m preprocess")
