"""The reports of all shards -> tables and manifest: a published set.

It needs neither the photographs nor the catalogue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shards.errors import JobError, ShardError
from shards.format import (
    REJECTED_NAME,
    WORK_NAME,
    Manifest,
    PixelStats,
    SplitInfo,
    fingerprint,
)
from shards.job import (
    JOB_NAME,
    Job,
    JobSplit,
    drop_work,
    hold_work,
    read_job,
    read_job_split,
)
from shards.photo_times import write_times
from shards.rejects import EXCLUDED, describe_too_many
from shards.shard_report import ShardReport
from shards.slices import missing_tasks
from shards.writer import publish, write_rejected

REPACK = "run the packing command again"


def merge(directory: Path, max_rejected: float | None = None) -> Manifest:
    """Publish a set whose slices are all packed, alone with it.

    Args:
        directory: Of the set.
        max_rejected: As in :func:`finish_job`.

    Raises:
        UserError: It is being packed, or merged, by another process.
        ShardError: There is no job here, it is damaged, or shards are missing.
        JobError: Too many photographs were rejected; nothing is published.

    Returns:
        The manifest; that of a published set as it is, so that a job may be run again.
    """
    if not (directory / WORK_NAME / JOB_NAME).is_file():
        return Manifest.read(directory)  # says what is wrong, unless the set is published
    with hold_work(directory):
        return finish_job(directory, max_rejected)


def finish_job(directory: Path, max_rejected: float | None) -> Manifest:
    """Check that every shard is there, write tables and manifest, drop the work folder.

    Args:
        directory: Of the set, whose work folder the caller holds.
        max_rejected: Largest share of photographs that may have been left out; None for a little
            (:func:`~shards.rejects.num_allowed`).

    Raises:
        ShardError: The job is damaged, or shards are missing.
        JobError: Too many photographs were rejected; nothing is published.
    """
    job = read_job(directory)
    splits = {name: read_job_split(directory, name) for name in job.shards}
    reports = _read_reports(directory, job)
    rejected = [
        (name, path, reason)
        for name, parts in reports.items()
        for part in parts
        for path, reason in part.rejected
    ]
    files = sum(len(split.labels) for split in splits.values())
    _refuse_too_many(directory, rejected, files, max_rejected)
    records = {name: np.concatenate([r.records for r in parts]) for name, parts in reports.items()}
    every = [report for parts in reports.values() for report in parts]
    manifest = Manifest(
        class_names=job.class_names,
        splits={
            name: SplitInfo(
                rows=len(split.rows),
                files=len(split.labels),
                samples=len(records[name]),
                shards=job.shards[name],
                bytes=int(records[name]["size"].sum(dtype=np.int64)),
            )
            for name, split in splits.items()
        },
        options=job.options,
        source=job.source,
        versions=job.versions,
        fingerprint=fingerprint(job.options, job.source, job.versions),
        stored=_totals(report.stored for report in every),
        rejected=_totals({_kind_of(reason): 1} for _, _, reason in rejected),
        pixels=_pixel_stats(reports["train"], records["train"]),
        files={name: info for report in every for name, info in report.files.items()},
        originals=_means(_totals(report.originals for report in every)),
        sources=_totals(report.sources for report in every),
    )
    rows = {name: _sample_of_rows(split, records[name]) for name, split in splits.items()}
    for leftover in directory.glob("*.tmp"):
        leftover.unlink(missing_ok=True)  # of a worker that was killed, perhaps elsewhere
    write_times(
        directory,
        {name: np.concatenate([r.times for r in parts]) for name, parts in reports.items()},
    )
    published = publish(directory, manifest, records, rows, rejected)
    drop_work(directory)
    return published


def _read_reports(directory: Path, job: Job) -> dict[str, list[ShardReport]]:
    reports: dict[str, list[ShardReport]] = {}
    missing = []
    for name, count in job.shards.items():
        reports[name] = []
        for shard in range(count):
            report = ShardReport.read(directory, name, shard)
            if report is None:
                missing.append((name, shard))
            else:
                reports[name].append(report)
    if missing:
        names = [f"{name} {shard}" for name, shard in missing]
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        tasks = missing_tasks(directory, job, missing)
        raise ShardError(
            f"{directory}: {len(missing)} of {sum(job.shards.values())} shards are not packed yet "
            f"({shown}); {REPACK}{f' with {tasks}' if tasks else ''}, it makes those alone"
        )
    return reports


def _kind_of(reason: str) -> str:
    """A reason without the name of the photograph that it may end with."""
    return reason.partition(" (")[0] if reason.startswith(EXCLUDED) else reason


def _refuse_too_many(
    directory: Path, rejected: list[tuple[str, str, str]], files: int, max_rejected: float | None
) -> None:
    problem = describe_too_many([reason for _, _, reason in rejected], files, max_rejected)
    if problem is not None:
        write_rejected(directory, rejected)
        raise JobError(
            f"{problem}; nothing is published. See {directory / REJECTED_NAME}; then allow more, "
            f"or mend the files, remove {directory} and pack again"
        )


def _totals(counts: Iterator[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def _means(sums: dict[str, int]) -> dict[str, float]:
    photos, jpegs = sums.get("photos", 0), sums.get("jpegs", 0)
    if not photos:
        return {}
    means = {
        "mean_width": round(sums["width"] / photos, 1),
        "mean_height": round(sums["height"] / photos, 1),
        "jpeg_share": round(jpegs / photos, 4),
    }
    return means | ({"mean_jpeg_quality": round(sums["quality"] / jpegs, 1)} if jpegs else {})


def _sample_of_rows(split: JobSplit, records: npt.NDArray[np.void]) -> npt.NDArray[np.int32]:
    """Sample id of every CSV row; ``-1 - label`` where its file was rejected."""
    sample_of_file = -1 - split.labels
    sample_of_file[records["key"]] = np.arange(len(records), dtype=np.int32)
    return sample_of_file[split.rows].astype("<i4")


def _pixel_stats(
    reports: list[ShardReport], records: npt.NDArray[np.void]
) -> dict[str, PixelStats]:
    """Of the training pixels, every image with equal weight as crops of one size have."""
    moments = sum((report.moments for report in reports), np.zeros((2, 2, 3)))
    images = np.array([len(records), records["repeats"].sum(dtype=np.int64)])
    if not images[0]:
        return {}
    mean, mean_square = np.moveaxis(moments / images[:, None, None], 1, 0)
    std = np.sqrt(np.maximum(mean_square - mean**2, 0))
    # Six digits are plenty, and keep the text free of rounding noise.
    return {
        plan: PixelStats(
            mean=tuple(np.round(mean[at], 6).tolist()), std=tuple(np.round(std[at], 6).tolist())
        )
        for at, plan in enumerate(("natural", "csv"))
    }
