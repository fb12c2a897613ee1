"""``python -m preprocess``: photographs -> shard set; audits them, adopts, draws a demo set.

Each command imports what it runs: ``--help`` answers at once, and a worker process, which begins by
importing this module, loads only what it needs.
"""

from __future__ import annotations

if __name__ == "__main__":  # a Ctrl-C during the imports waits until run() can answer it
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))

import time
from pathlib import Path

import click

from preprocess.options import PackOptions, pack_options, patterns_of
from shards.commands import HELP, run, stop_on_signals
from shards.errors import UserError
from shards.machine import allowed_cores, human_time
from shards.settings import refuse_code_folder, require_path
from shards.user_paths import USER_PATH, require_output_folder


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
@click.argument("data", type=USER_PATH, required=False)
@pack_options
@click.option(
    "--add",
    multiple=True,
    type=USER_PATH,
    metavar="SOURCE.csv",
    help="Add photographs to train: columns file, label and any of latitude, longitude, date, url, "
    "licence, source, or as GBIF and iNaturalist export them. Copies of val and test photographs "
    "are refused.  [repeatable]",
)
@click.option(
    "--exclude",
    type=USER_PATH,
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
    from preprocess.add import add_photos
    from preprocess.discover import read_catalog
    from preprocess.exclude import exclude_copies
    from preprocess.pack_job import pack_catalog
    from preprocess.photo_hash import require_imagehash

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
@click.argument("folder", type=USER_PATH)
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
    type=USER_PATH,
    help="Class names, one a line, that numeric labels count.  [default: class_names.txt or "
    "classes.txt in FOLDER, else the numbers]",
)
def adopt_command(
    folder: Path, options: PackOptions, splits: dict[str, str], classes: Path | None
) -> None:
    """Pack a foreign WebDataset FOLDER anew.

    The same checks, the same guarantees as for photographs. FOLDER holds .tar files of samples
    <key>.jpg, .jpeg, .png or .webp with <key>.cls (a number or a name) or a <key>.json with a
    label. It is only read. Stopped, it goes on as packing does.
    """
    from preprocess.adopt import read_names, read_webdataset
    from preprocess.pack_job import pack_catalog

    out = options.require_out()
    folder = folder.absolute() if options.dask else folder
    start = time.perf_counter()
    names = read_names(classes) if classes else None
    catalog = read_webdataset(folder, splits=splits, class_names=names, seed=options.seed)
    pack_catalog(catalog, folder, out, options, start)


@main.command(name="audit", context_settings=HELP)
@click.argument("data", type=USER_PATH, metavar="DATA|SHARDS", required=False)
@click.option("--out", type=USER_PATH, default="audit", help="Folder for what is found.")
@click.option(
    "--threshold",
    type=click.IntRange(0, 16),
    default=4,  # preprocess.copies.DEFAULT_THRESHOLD, without importing it
    help="Bits of 64 by which the hashes of near copies may differ.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: allowed cores]")
@click.option("--seed", default=0, type=click.IntRange(0), help="Of a split made here.")
def audit_command(
    data: Path | None, out: Path, threshold: int, workers: int | None, seed: int
) -> None:
    """Find copies of photographs, exact and near.

    Inside a split, across splits (leakage) and across labels (contradictions). Writes audit.csv, a
    row a pair, and contact sheets of the worst. Pack with --exclude audit.csv to leave them out of
    train; delete the rows of pairs that you want to keep.
    """
    from preprocess.audit import audit, photos_of, report, write_audit
    from preprocess.executors import local_executor
    from preprocess.photo_hash import require_imagehash
    from shards.format import MANIFEST_NAME, WORK_NAME
    from shards.progress import Progress

    data = require_path("data_dir", data, "DATA|SHARDS")
    refuse_code_folder(out, "output folder")
    require_output_folder(out, "what is found")
    if out.resolve().is_relative_to(data.resolve()):
        raise UserError(
            f"--out {out} lies inside {data}, where the next packing would take contact sheets for "
            "photographs; choose a folder outside"
        )
    if any((out.resolve() / name).exists() for name in (MANIFEST_NAME, WORK_NAME)):
        raise UserError(f"--out {out} is a shard set, which takes no other files; choose another")
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
@click.argument("out", type=USER_PATH)
@click.option("--seed", default=0, type=click.IntRange(0), help="Of everything that is drawn.")
@click.option("--train-files", default=40, type=click.IntRange(4), help="Of the largest class.")
@click.option(
    "--eval-files", default=10, type=click.IntRange(1), help="Per class, for val and for test."
)
def demo_data_command(out: Path, seed: int, train_files: int, eval_files: int) -> None:
    """Draw a data set of mushrooms in the Kaggle layout into OUT."""
    from preprocess.demo_data import draw_demo_data, num_demo_photos
    from shards.progress import Progress

    refuse_code_folder(out, "output folder")
    require_output_folder(out, "the demo data")
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


if __name__ == "__main__":
    run(main, "python -m preprocess")
