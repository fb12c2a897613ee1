"""``python -m preprocess``: photographs -> shard set; also draws the demo data set."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import click

from preprocess.catalog import Catalog
from preprocess.demo_data import draw_demo_data, num_demo_photos
from preprocess.discover import read_catalog
from preprocess.executors import dask_executor, local_executor
from preprocess.image import ImageOptions, Subsampling
from preprocess.pack import OnProgress, expected_bytes, pack, pack_slice
from preprocess.shard_task import ShardTask
from shards.commands import HELP, run, stop_on_signals
from shards.errors import UserError
from shards.format import MANIFEST_NAME, WORK_NAME, Manifest
from shards.job import ShardReport
from shards.machine import allowed_cores, free_disk, human_bytes, human_time
from shards.progress import Progress
from shards.settings import refuse_code_folder, require_path


class _PackByDefault(click.Group):
    """``python -m preprocess DATA`` packs; the other jobs are named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        helps = set(ctx.help_option_names)
        if not args or (args[0] not in self.commands and args[0] not in helps):
            args = ["pack", *args]
        return super().parse_args(ctx, args)


def raw_share_of(_context: click.Context, param: click.Parameter, value: str) -> float:
    """``jpeg``, ``raw`` or ``mix:P`` -> the share of images that are stored as arrays."""
    kind, _, share = value.partition(":")
    try:
        return {"jpeg": 0.0, "raw": 1.0}[value] if kind != "mix" else _probability(share)
    except (KeyError, ValueError):
        raise click.BadParameter(
            f"{value!r} is not jpeg, raw, or mix:P with P from 0 to 1", param=param
        ) from None


def slice_of(
    _context: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """``3/8`` -> ``(3, 8)``."""
    if value is None:
        return None
    try:
        index, count = map(int, value.split("/"))
    except ValueError:
        index, count = -1, 0
    if not 0 <= index < count:
        raise click.BadParameter(f"{value!r} is not I/N with I from 0 to N-1", param=param)
    return index, count


def _probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


@click.group(cls=_PackByDefault, context_settings=HELP)
def main() -> None:
    """Photographs -> shard set. `python -m preprocess DATA --out SHARDS` is short for `pack`."""


@main.command(name="pack", context_settings=HELP)
@click.argument("data", type=click.Path(path_type=Path), required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the shard set.")
@click.option(
    "--store",
    "raw_share",
    callback=raw_share_of,
    default="jpeg",
    metavar="jpeg|raw|mix:P",
    help="JPEGs, uint8 arrays (no decoding later, much larger), or arrays with probability P.",
)
@click.option("--short-side", default=440, help="Scale images down to this shorter side [px].")
@click.option("--max-side", type=int, help="And to this longer side [px].")
@click.option("--quality", default=90, help="JPEG quality of images that are encoded anew.")
@click.option(
    "--subsampling",
    type=click.Choice(["420", "422", "444"]),
    default="420",
    help="Of colour, in images that are encoded anew.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: allowed cores]")
@click.option(
    "--seed",
    default=0,
    type=click.IntRange(0),
    help="Of the stored order, and of a split made here.",
)
@click.option(
    "--max-rejected",
    default=1.0,
    type=click.FloatRange(0, 100),
    help="Percentage of photographs that may be unusable.",
)
@click.option(
    "--task",
    callback=slice_of,
    metavar="I/N",
    help="Pack slice I of N (0 to N-1) alone; `python -m shards merge` then publishes.",
)
@click.option("--dask", metavar="ADDRESS", help="Pack on this Dask cluster: tcp://scheduler:8786.")
def pack_command(
    data: Path | None,
    out: Path | None,
    raw_share: float,
    short_side: int,
    max_side: int | None,
    quality: int,
    subsampling: Subsampling,
    workers: int | None,
    seed: int,
    max_rejected: float,
    task: tuple[int, int] | None,
    dask: str | None,
) -> None:
    """Pack DATA once into checked, resized WebDataset shards.

    DATA is the Kaggle layout (train.csv, val.csv, test.csv and merged_dataset/) or folders of
    classes. DATA and --out have per-machine defaults: HYPHAE_DATA_DIR and HYPHAE_SHARDS_DIR, or
    local.toml. A run that was stopped goes on where it was; a finished set is left alone.
    """
    data = require_path("data_dir", data, "DATA")
    out = require_path("shards_dir", out, "--out SHARDS")
    refuse_code_folder(out, "output folder")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, expected a folder for the shard set")
    try:
        options = ImageOptions(
            raw_share=raw_share,
            short_side=short_side,
            max_side=max_side,
            quality=quality,
            subsampling=subsampling,
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    workers = workers or allowed_cores()

    start = time.perf_counter()
    if dask:  # other machines have other current folders
        data, out = data.absolute(), out.absolute()
    catalog = read_catalog(data, seed=seed, max_missing=max_rejected / 100)
    announce(catalog, data, out, options, workers)
    finished = (out / MANIFEST_NAME).exists()
    goes_on = f"stopped; finished shards are kept in {out}: run the same command again to go on"
    with (
        dask_executor(dask) if dask else local_executor(workers) as executor,
        stop_on_signals(goes_on),
        Progress("packing", sum(map(len, catalog.splits.values())), "photos") as progress,
    ):
        on_progress = _progress_of(progress)
        if task is not None:
            pack_slice(catalog, out, options, executor, task, on_progress=on_progress)
        else:
            manifest = pack(
                catalog,
                out,
                options,
                executor,
                max_rejected=max_rejected / 100,
                on_progress=on_progress,
            )
    if task is not None:
        click.echo(
            f"slice {task[0]}/{task[1]} is packed; once all {task[1]} are: "
            f'python -m shards merge "{out}"'
        )
        return
    if finished:
        click.echo(f"{out} is complete already and matches; nothing to do")
    else:
        log_run(out, data, workers, time.perf_counter() - start)
    click.echo(summary(manifest, out, time.perf_counter() - start))


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


def announce(catalog: Catalog, data: Path, out: Path, options: ImageOptions, workers: int) -> None:
    """Say what was found and what it will take; refuse a disk that is too full."""
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
        f"{len(catalog.class_names)} classes ({catalog.layout}), at most {human_bytes(needed)}, "
        f"{workers} workers"
    )


def log_run(out: Path, data: Path, workers: int, seconds: float) -> None:
    """Append to ``pack.log`` what must stay out of the set itself: times, hosts, worker counts."""
    line = (
        f"{time.strftime('%Y-%m-%d %H:%M:%S%z')} {platform.node()}: packed {data.absolute()} with "
        f"{workers} workers in {human_time(seconds)}\n"
    )
    with (out / "pack.log").open("a", encoding="utf-8", errors="surrogateescape") as log:
        log.write(line)


def summary(manifest: Manifest, out: Path, seconds: float) -> str:
    """What was packed, what repetition and packing saved, and what was left out."""
    lines = []
    for name, split in manifest.splits.items():
        lines.append(
            f"{name:<6}{split.rows:>9,} rows from {split.files:,} files"
            f"{f' (x{split.repetition:.2f})' if split.rows != split.files else ''}, "
            f"{split.files - split.samples:,} rejected, {human_bytes(split.bytes)} in "
            f"{split.shards} shards"
        )
    train = manifest.splits["train"]
    if train.rows > train.files and train.samples:
        saved = train.bytes * (train.repetition - 1)
        lines.append(
            f"repeated rows are packed once: {human_bytes(saved)} not written "
            f"({train.repetition:.2f}x less than packing every training row)"
        )
    total = sum(split.files for split in manifest.splits.values())
    shares = [
        f"{count / total:.1%} {how.replace('_', ' ')}" for how, count in manifest.stored.items()
    ]
    rejected = sum(manifest.rejected.values())
    lines.append(f"photographs: {', '.join(shares)}, {rejected / total:.1%} rejected")
    lines += [f"  rejected {count}: {reason}" for reason, count in manifest.rejected.items()]
    lines.append(f'done in {human_time(seconds)}; look with `python -m shards info "{out}"`')
    return "\n".join(lines)


def _progress_of(progress: Progress) -> OnProgress:
    megabytes, start = 0.0, time.perf_counter()

    def on_progress(task: ShardTask, report: ShardReport, new: bool) -> None:
        nonlocal megabytes
        megabytes += report.bytes_read / 1e6 if new else 0
        progress.update(
            len(task.paths), f"{megabytes / (time.perf_counter() - start):.1f} MB/s read"
        )

    return on_progress


if __name__ == "__main__":
    run(main, "python -m preprocess")
