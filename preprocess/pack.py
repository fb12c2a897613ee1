"""Catalogue -> published shard set: parallel, resumable, the same bytes for any worker count.

The tar, the index and the report of each shard appear atomically, so a killed run leaves only whole
shards behind, and the next run goes on from them. The manifest is written last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import PIL
import simplejpeg

from preprocess.catalog import Catalog
from preprocess.encode import ENCODER
from preprocess.image import ImageOptions
from preprocess.shard_task import UNREAD, ShardTask, pack_shard, shard_tasks
from shards.commands import describe_os_error
from shards.errors import JobError, UserError
from shards.format import MANIFEST_NAME, WORK_NAME, FileInfo, Manifest, index_name, shard_name
from shards.job import Job, JobSplit, drop_work, hold_work, open_job, refuse_other_job
from shards.merge import finish_job
from shards.photo_times import TIMES_NAME, read_times, write_times
from shards.shard_report import ShardReport, is_whole
from shards.slices import note_slices

OnProgress = Callable[[ShardTask, ShardReport, bool], None]
"""Called with each shard that is done; the flag is False for one of an earlier run."""

GROWTH = 1.5
"""Of a JPEG that is encoded anew at a higher quality than it had."""
ROOM_FACTOR = 1.05
"""Tar headers, labels and tables, on top of the photographs themselves."""

SHOWN = 3


def pack(
    catalog: Catalog,
    out: Path,
    options: ImageOptions,
    executor: Executor,
    *,
    max_rejected: float | None = None,
    on_progress: OnProgress = lambda task, report, new: None,
) -> Manifest:
    """Pack a catalogue into ``out``, going on where an earlier run stopped.

    Args:
        catalog: What to pack.
        out: Folder for the set; created where it is missing.
        options: How to store photographs.
        executor: Runs :func:`pack_shard`; any ``concurrent.futures`` executor that shares the disk.
        max_rejected: Largest share of photographs that may be left out; None for a little
            (:func:`~shards.rejects.num_allowed`).
        on_progress: Hears of each shard.

    Raises:
        UserError: ``out`` holds something else, or what other photographs were packed into.
        JobError: Too many photographs were rejected, or a worker failed; nothing is published.
    """
    tasks = list(shard_tasks(catalog, out, options))
    job = describe_job(catalog, options, tasks)
    if (out / MANIFEST_NAME).exists():
        manifest = Manifest.read(out)
        refuse_other_job(out, job)
        _refuse_changed(catalog, out)
        _restore(tasks, manifest, executor, on_progress)
        return manifest
    with open_job(out, job, _job_splits(catalog)):
        _run(tasks, executor, on_progress)
        return finish_job(out, max_rejected)


def pack_slice(
    catalog: Catalog,
    out: Path,
    options: ImageOptions,
    executor: Executor,
    part: tuple[int, int],
    *,
    on_progress: OnProgress = lambda task, report, new: None,
) -> None:
    """Make slice ``i`` of ``n`` (``part``), every n-th shard, beside others on the same set.

    ``shards.merge.merge`` publishes the set once all slices are there.

    Raises:
        UserError: ``out`` holds something else, or what other photographs were packed into.
        JobError: A worker failed.
    """
    tasks = list(shard_tasks(catalog, out, options))
    job = describe_job(catalog, options, tasks)
    if (out / MANIFEST_NAME).exists():
        refuse_other_job(out, job)
        _refuse_changed(catalog, out)
        return
    with open_job(out, job, _job_splits(catalog), alone=False):
        index, count = part
        note_slices(out, count)
        _run(tasks[index::count], executor, on_progress)


def refuse_unfit(catalog: Catalog, out: Path, options: ImageOptions) -> None:
    """Raise :class:`UserError` where :func:`pack` would before it does anything."""
    refuse_other_job(out, describe_job(catalog, options, list(shard_tasks(catalog, out, options))))


def describe_job(catalog: Catalog, options: ImageOptions, tasks: list[ShardTask]) -> Job:
    """Everything that decides the bytes of the set."""
    return Job(
        class_names=catalog.class_names,
        options=asdict(options),
        source={"layout": catalog.layout, "digest": catalog.digest(), "asked": catalog.asked},
        versions=codec_versions(),
        shards={name: sum(task.split == name for task in tasks) for name in catalog.splits},
    )


def expected_bytes(catalog: Catalog, options: ImageOptions) -> int:
    """Room to have at hand: a cautious estimate from the sizes of the files alone.

    What fits is kept as it is; what is encoded anew may grow, where the original had a lower
    quality (by a third, from quality 75 to 90). Taken for granted are 3:2 images: a JPEG at quality
    90 has no more than 0.7 bytes a pixel, an array has 3.
    """
    pixels = options.short_side**2 * 3 / 2
    sizes = np.concatenate([split.sizes for split in catalog.splits.values()])
    as_jpeg = np.minimum(np.maximum(sizes, 0) * GROWTH, pixels * 0.7).sum()
    as_array = (sizes > 0).sum() * pixels * 3
    return int(ROOM_FACTOR * (as_jpeg + options.raw_share * (as_array - as_jpeg)))


def codec_versions() -> dict[str, str]:
    """Versions of what turns pixels into bytes and back: other versions, other bytes."""
    return {
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "simplejpeg": simplejpeg.__version__,
        "encoder": ENCODER,
    }


def _job_splits(catalog: Catalog) -> dict[str, JobSplit]:
    return {
        name: JobSplit(labels=split.labels.astype(np.int32), rows=split.rows)
        for name, split in catalog.splits.items()
    }


def changed_photos(catalog: Catalog, out: Path, options: ImageOptions) -> list[str]:
    """Photographs of finished shards that were modified since: those shards are made again."""
    changed = []
    for task in shard_tasks(catalog, out, options):
        report = ShardReport.read(out, task.split, task.shard)
        if report is not None:
            changed += _differing(task.paths, report.times, task.times)
    return changed


def _differing(
    paths: list[str], noted: npt.NDArray[np.int64], found: npt.NDArray[np.int64]
) -> list[str]:
    if len(noted) != len(found):
        return paths
    return [paths[at] for at in np.flatnonzero(noted != found)]


def _refuse_changed(catalog: Catalog, out: Path) -> None:
    """Raise :class:`UserError` naming photographs that were modified since a set was published."""
    noted = read_times(out)
    if noted is None:
        with contextlib.suppress(OSError):  # a set may lie where nobody may write
            write_times(out, {name: split.times for name, split in catalog.splits.items()})
        return
    changed = [
        path
        for name, split in catalog.splits.items()
        for path in _differing(split.paths, noted.get(name, np.empty(0, np.int64)), split.times)
    ]
    if changed:
        raise UserError(
            f"{shown(changed)} modified since {out} was packed; if the pictures changed, remove "
            f"{out} and pack again; if only their times did, as in copying, delete "
            f"{out / TIMES_NAME} and run the same command again"
        )


def shown(paths: list[str]) -> str:
    """``'a.jpg', 'b.jpg' and 7 more photographs were``: for messages."""
    names = ", ".join(map(repr, paths[:SHOWN]))
    more = len(paths) - SHOWN
    if more > 0:
        return f"{names} and {more:,} more photographs were"
    return f"{names} {'was' if len(paths) == 1 else 'were'}"


def _restore(
    tasks: list[ShardTask], manifest: Manifest, executor: Executor, on_progress: OnProgress
) -> None:
    """Make the shards of a published set that are no longer there, and check that they are equal.

    Raises:
        JobError: A table is gone, or a photograph changed since.
    """
    out = tasks[0].out
    wanted = [(task, _files_of(task, manifest)) for task in tasks]
    shard_files = {name for _, files in wanted for name in files}
    for name, info in manifest.files.items():
        if name not in shard_files and not is_whole(out, {name: info}):
            raise JobError(f"{out / name} is missing or damaged; remove {out} and pack again")
    lost = [(task, files) for task, files in wanted if not is_whole(out, files)]
    work = out / WORK_NAME
    if not lost and not work.exists():
        return
    work.mkdir(exist_ok=True)
    with hold_work(out):
        _run([task for task, _ in lost], executor, on_progress)
        for task, files in lost:
            report = ShardReport.read(out, task.split, task.shard)
            if report is None or report.files != files:
                raise JobError(
                    f"{shard_name(task.split, task.shard)} came out differently than before: its "
                    f"photographs changed; remove {out} and pack again"
                )
        drop_work(out)  # also of a run that was killed between its last two steps


def _files_of(task: ShardTask, manifest: Manifest) -> dict[str, FileInfo]:
    """The files that a task made; none where all its photographs were rejected."""
    names = (shard_name(task.split, task.shard), index_name(task.split, task.shard))
    return {name: manifest.files[name] for name in names if name in manifest.files}


def _run(
    tasks: list[ShardTask],
    executor: Executor,
    on_progress: Callable[[ShardTask, ShardReport, bool], None],
) -> None:
    """Run what is not yet done."""
    todo = []
    for task in tasks:
        report = ShardReport.read(task.out, task.split, task.shard)
        # What the disk did not give last time it may give now.
        if (
            report is None
            or not np.array_equal(report.times, task.times)
            or any(reason in UNREAD for _, reason in report.rejected)
        ):
            todo.append(task)
        else:
            on_progress(task, report, False)
    running: dict[Future[ShardReport], ShardTask] = {}
    try:
        for task in todo:
            running[executor.submit(pack_shard, task)] = task
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                on_progress(running.pop(future), future.result(), True)
    except BrokenProcessPool:
        # What waits fails by itself; a future cancelled meanwhile would trip the pool's own thread.
        raise JobError(
            "a packing process was killed, perhaps for want of memory; the finished shards are "
            "kept: run the same command again, with fewer --workers if it happens again"
        ) from None
    except OSError as error:
        _cancel(running)
        raise JobError(
            f"packing stopped: {describe_os_error(error)}; the finished shards are kept: mend it "
            "and run the same command again"
        ) from None
    except BaseException:
        _cancel(running)
        raise


def _cancel(futures: Iterable[Future[ShardReport]]) -> None:
    for future in futures:
        future.cancel()
