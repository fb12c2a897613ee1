"""A packing job under way: what lies in ``.pack/`` until the set is published.

Any number of processes on any number of machines may make shards of one job, as long as they share
the folder. Each finished shard leaves a report; :func:`finish_job` turns all reports into the tables
and the manifest. It needs neither the photographs nor the catalogue.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.errors import JobError, ShardError, UserError
from shards.format import (
    REJECTED_NAME,
    WORK_NAME,
    Manifest,
    PixelStats,
    SplitInfo,
    fingerprint,
)
from shards.shard_report import ShardReport
from shards.writer import npy_bytes, publish, write_file, write_rejected

JOB_NAME = "job.json"
REPACK = "run the packing command again"
EXCLUDED = "excluded: "
"""How a reason begins that was the user's wish: such photographs are not held against the set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What decides the bytes of a set, and how many shards each split has."""

    class_names: tuple[str, ...]
    options: dict[str, Any]
    source: dict[str, Any]
    versions: dict[str, str]
    shards: dict[str, int]
    """Shards of each split."""

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> Job:
        """The job that made a published set."""
        return cls(
            class_names=manifest.class_names,
            options=manifest.options,
            source=manifest.source,
            versions=manifest.versions,
            shards={name: split.shards for name, split in manifest.splits.items()},
        )

    def refuse_difference(self, made: Job, directory: Path) -> None:
        """Raise :class:`UserError` naming every way in which ``made`` differs from this job."""
        differences = [
            f"{name} {theirs.get(name)!r} there, {ours.get(name)!r} now"
            for ours, theirs in ((self.options, made.options), (self.versions, made.versions))
            for name in sorted({*ours, *theirs})
            if ours.get(name) != theirs.get(name)
        ]
        if self.source != made.source:
            differences.append("other photographs, labels or splits than now")
        if differences:
            raise UserError(
                f"{directory} holds a shard set made differently ({'; '.join(differences)}); "
                "choose another folder with --out, or remove that one"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSplit:
    """The catalogue of a split, as far as the tables need it."""

    labels: npt.NDArray[np.int32]
    """``(files,)`` label of each distinct file, in catalogue order."""
    rows: npt.NDArray[np.int32]
    """``(rows,)`` the file of each CSV row."""


@contextmanager
def open_job(
    directory: Path, job: Job, splits: dict[str, JobSplit], *, alone: bool = True
) -> Iterator[None]:
    """The work folder of a job, created or found again.

    Args:
        directory: Of the set.
        job: What is to be made.
        splits: Their catalogues.
        alone: Refuse others at work on the same set; False for slices that run side by side.

    Raises:
        UserError: The folder is a file, holds something else or another job, or is being packed.
    """
    work = directory / WORK_NAME
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file, expected a folder for the shard set")
    if directory.exists() and not work.exists() and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty and holds no shard set; choose another folder")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {directory}: {error.strerror}; choose another") from None
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{directory} is being packed by another process; wait for it"
            ) from None
        if (work / JOB_NAME).exists():
            job.refuse_difference(_read_job(directory), directory)
        else:
            for name, split in splits.items():
                write_file(work / f"{name}.labels.npy", npy_bytes(split.labels))
                write_file(work / f"{name}.rows.npy", npy_bytes(split.rows))
            write_file(work / JOB_NAME, json.dumps(asdict(job)).encode())
        if alone:
            for leftover in [*directory.glob("*.tmp"), *work.glob("*.tmp")]:
                leftover.unlink(missing_ok=True)  # of a killed run
        yield


def finish_job(directory: Path, max_rejected: float) -> Manifest:
    """Check that every shard is there, write tables and manifest, drop the work folder.

    Args:
        directory: Of the set.
        max_rejected: Largest share of photographs that may have been left out.

    Raises:
        ShardError: There is no job here, or shards are missing.
        JobError: Too many photographs were rejected; nothing is published.
    """
    if not (directory / WORK_NAME / JOB_NAME).is_file():
        Manifest.read(directory)  # says what is wrong, unless the set is published already
        raise ShardError(f"{directory} is published already; nothing to merge")
    job = _read_job(directory)
    splits = {name: _read_split(directory, name) for name in job.shards}
    reports = _read_reports(directory, job)
    rejected = [
        (name, path, reason)
        for name, parts in reports.items()
        for part in parts
        for path, reason in part.rejected
    ]
    _refuse_too_many(directory, rejected, sum(len(s.labels) for s in splits.values()), max_rejected)
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
    published = publish(directory, manifest, records, rows, rejected)
    drop_work(directory)
    return published


def drop_work(directory: Path) -> None:
    """Remove what packing left beside a published set."""
    shutil.rmtree(directory / WORK_NAME, ignore_errors=True)


def _read_job(directory: Path) -> Job:
    path = directory / WORK_NAME / JOB_NAME
    try:
        content = json.loads(path.read_bytes())
        return Job(**content | {"class_names": tuple(content["class_names"])})
    except (OSError, ValueError, TypeError, KeyError):
        raise ShardError(f"{path} is damaged; remove {directory} and pack again") from None


def _read_split(directory: Path, name: str) -> JobSplit:
    work = directory / WORK_NAME
    return JobSplit(
        labels=np.load(work / f"{name}.labels.npy"), rows=np.load(work / f"{name}.rows.npy")
    )


def _read_reports(directory: Path, job: Job) -> dict[str, list[ShardReport]]:
    reports: dict[str, list[ShardReport]] = {}
    missing = []
    for name, count in job.shards.items():
        reports[name] = []
        for shard in range(count):
            report = ShardReport.read(directory, name, shard)
            if report is None:
                missing.append(f"{name} {shard}")
            else:
                reports[name].append(report)
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ShardError(
            f"{directory}: {len(missing)} of {sum(job.shards.values())} shards are not packed yet "
            f"({shown}); {REPACK}, it makes those alone"
        )
    return reports


def _kind_of(reason: str) -> str:
    """A reason without the name of the photograph that it may end with."""
    return reason.partition(" (")[0] if reason.startswith(EXCLUDED) else reason


def _refuse_too_many(
    directory: Path, rejected: list[tuple[str, str, str]], files: int, max_rejected: float
) -> None:
    unwanted = [reason for _, _, reason in rejected if not reason.startswith(EXCLUDED)]
    if len(unwanted) <= max_rejected * files:
        return
    write_rejected(directory, rejected)
    reasons = Counter(unwanted).most_common(3)
    raise JobError(
        f"{len(unwanted):,} of {files:,} photographs were rejected "
        f"({', '.join(f'{count:,} {reason}' for reason, count in reasons)}), more than "
        f"--max-rejected {100 * max_rejected:g} (percent) allows; nothing is published. See "
        f"{directory / REJECTED_NAME}; then allow more, or mend the files, remove {directory} "
        "and pack again"
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
