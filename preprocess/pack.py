"""Catalogue -> published shard set: parallel, resumable, the same bytes for any worker count.

A shard is one pure task over a fixed range of the catalogue. Its tar, its index and then a small
report appear atomically, so a killed run leaves only whole shards behind, and the next run goes on
from them. The manifest is written last.
"""

from __future__ import annotations

import base64
import fcntl
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import PIL
import simplejpeg

from preprocess.catalog import Catalog, SplitCatalog
from preprocess.image import ImageOptions, RejectedImage, StoredImage, store_image
from shards.commands import describe_os_error
from shards.errors import JobError, UserError
from shards.format import (
    MANIFEST_NAME,
    SAMPLE_DTYPE,
    WORK_NAME,
    FileInfo,
    Manifest,
    PixelStats,
    SplitInfo,
    fingerprint,
)
from shards.writer import Sample, publish, write_file, write_rejected, write_shard

MAX_SHARD_FILES = 1000
MIN_SHARD_FILES = 64
SHARDS_WANTED = 16
"""Small splits are cut into about this many shards, so that every core and reader gets some."""

JOB_NAME = "job.json"
ROOM_FACTOR = 1.05
"""Tar headers, labels and tables, on top of the photographs themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """Everything one worker needs to make one shard; small enough to send anywhere."""

    root: Path
    out: Path
    split: str
    shard: int
    first_key: int
    paths: list[str]
    labels: list[int]
    repeats: list[int]
    options: ImageOptions

    @property
    def report_path(self) -> Path:
        """Where the shard's report lies once it is complete."""
        return self.out / WORK_NAME / f"{self.split}-{self.shard:06d}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """What became of one shard."""

    records: npt.NDArray[np.void]
    files: dict[str, FileInfo]
    stored: dict[str, int]
    rejected: list[tuple[str, str]]
    """``(path, reason)``."""
    bytes_read: int
    moments: npt.NDArray[np.float64]
    """``(2, 2, 3)``: sums over images of (mean, mean square) of RGB, each image counted once and
    as often as the CSV names it."""

    def to_json(self) -> bytes:
        """For the work folder."""
        content = {
            "records": base64.b64encode(self.records.tobytes()).decode(),
            "files": {name: asdict(info) for name, info in self.files.items()},
            "stored": self.stored,
            "rejected": self.rejected,
            "bytes_read": self.bytes_read,
            "moments": self.moments.tolist(),
        }
        return json.dumps(content).encode()

    @classmethod
    def from_json(cls, data: bytes) -> ShardReport:
        """The reverse of :meth:`to_json`."""
        content = json.loads(data)
        return cls(
            records=np.frombuffer(base64.b64decode(content["records"]), SAMPLE_DTYPE),
            files={name: FileInfo(**info) for name, info in content["files"].items()},
            stored=content["stored"],
            rejected=[(path, reason) for path, reason in content["rejected"]],
            bytes_read=content["bytes_read"],
            moments=np.array(content["moments"]),
        )


def pack_shard(task: ShardTask) -> ShardReport:
    """Make one shard: read, check, resize, write. A pure function of its task and the files."""
    cv2.setNumThreads(1)  # parallelism is one process a core; OpenCV's own would oversubscribe
    stored: Counter[str] = Counter()
    rejected: list[tuple[str, str]] = []
    moments = np.zeros((2, 2, 3))
    bytes_read = 0

    def samples() -> Iterator[Sample]:
        nonlocal bytes_read
        for at, (path, label, repeats) in enumerate(
            zip(task.paths, task.labels, task.repeats, strict=True)
        ):
            try:
                data = _read(task.root / path)
                image = store_image(data, task.options)
            except RejectedImage as reason:
                rejected.append((path, str(reason)))
                continue
            bytes_read += len(data)
            stored[image.how] += 1
            _add_moments(moments, image, repeats)
            yield Sample(
                key=task.first_key + at,
                label=label,
                repeats=repeats,
                payload=image.payload,
                extension="jpg",
                width=image.width,
                height=image.height,
                metadata={"path": path},
            )

    written = write_shard(task.out, task.split, task.shard, samples())
    report = ShardReport(
        records=written.records,
        files=written.files,
        stored=dict(stored),
        rejected=rejected,
        bytes_read=bytes_read,
        moments=moments,
    )
    write_file(task.report_path, report.to_json())
    return report


def pack(
    catalog: Catalog,
    out: Path,
    options: ImageOptions,
    executor: Executor,
    *,
    max_rejected: float = 0.01,
    on_progress: Callable[[ShardTask, ShardReport, bool], None] = lambda task, report, new: None,
) -> Manifest:
    """Pack a catalogue into ``out``, going on where an earlier run stopped.

    Args:
        catalog: What to pack.
        out: Folder for the set; created where it is missing.
        options: How to store photographs.
        executor: Runs :func:`pack_shard`; any ``concurrent.futures`` executor that shares the disk.
        max_rejected: Largest share of photographs that may be left out.
        on_progress: Called with each finished shard; ``new`` is False for one of an earlier run.

    Raises:
        UserError: ``out`` holds something else, or the disk has too little room.
        JobError: Too many photographs were rejected, or a worker failed; nothing is published.
    """
    versions = codec_versions()
    source = {"layout": catalog.layout, "digest": catalog.digest()}
    job: dict[str, Any] = {
        "options": {"store": "jpeg", **asdict(options)},
        "source": source,
        "versions": versions,
    }
    if (out / MANIFEST_NAME).exists():
        return _check_same(job, Manifest.read(out), out)
    tasks = list(shard_tasks(catalog, out, options))
    with _locked(out, job):
        reports = _run(tasks, executor, on_progress)
        manifest = _publish(catalog, out, job, tasks, reports, max_rejected)
        shutil.rmtree(out / WORK_NAME)
    return manifest


def shard_tasks(catalog: Catalog, out: Path, options: ImageOptions) -> Iterator[ShardTask]:
    """Cut every split into ranges whose size depends on the split alone, never on the machine."""
    for name, split in catalog.splits.items():
        count = shard_files(len(split))
        for shard, first in enumerate(range(0, len(split), count)):
            part = slice(first, first + count)
            yield ShardTask(
                root=catalog.root,
                out=out,
                split=name,
                shard=shard,
                first_key=first,
                paths=split.paths[part],
                labels=split.labels[part].tolist(),
                repeats=split.repeats[part].tolist(),
                options=options,
            )


def shard_files(files: int) -> int:
    """Photographs a shard of a split of ``files``.

    >>> shard_files(688), shard_files(8000), shard_files(72_870)
    (64, 500, 1000)
    """
    return max(MIN_SHARD_FILES, min(MAX_SHARD_FILES, -(-files // SHARDS_WANTED)))


def expected_bytes(catalog: Catalog, options: ImageOptions) -> int:
    """Room the set will need at most: what is resized shrinks, what fits is kept as it is.

    A photograph that is encoded anew takes about a byte for 3 pixels at quality 90, so no file is
    counted with more than that of a 3:2 image of the target size.
    """
    largest = options.short_side**2 * 3 / 2 * 0.7
    sizes = np.concatenate([split.sizes for split in catalog.splits.values()])
    return int(np.minimum(np.maximum(sizes, 0), largest).sum() * ROOM_FACTOR)


def codec_versions() -> dict[str, str]:
    """Versions of what turns pixels into bytes and back: other versions, other bytes."""
    return {
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "simplejpeg": simplejpeg.__version__,
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise RejectedImage("missing") from None
    except OSError as error:
        raise RejectedImage(f"unreadable: {(error.strerror or 'error').lower()}") from None


def _add_moments(moments: npt.NDArray[np.float64], image: StoredImage, repeats: int) -> None:
    both = np.array([image.mean, image.mean_square])
    moments[0] += both
    moments[1] += both * repeats


def _check_same(job: dict[str, Any], manifest: Manifest, out: Path) -> Manifest:
    """A finished set is left alone if it is what this job would make, else refused by name."""
    made = {
        "options": manifest.options,
        "source": manifest.source,
        "versions": manifest.versions,
    }
    _refuse_difference(job, made, out)
    return manifest


def _refuse_difference(job: dict[str, Any], made: dict[str, Any], out: Path) -> None:
    differences = [
        f"{name} {made[part].get(name)!r} there, {job[part].get(name)!r} now"
        for part in ("options", "versions")
        for name in sorted({*job[part], *made[part]})
        if job[part].get(name) != made[part].get(name)
    ]
    if job["source"] != made["source"]:
        differences.append("other photographs, labels or splits than now")
    if differences:
        raise UserError(
            f"{out} holds a shard set made differently ({'; '.join(differences)}); "
            "choose another folder with --out, or remove that one"
        )


@contextmanager
def _locked(out: Path, job: dict[str, Any]) -> Iterator[None]:
    """The work folder, for one packing process at a time and one job only."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, expected a folder for the shard set")
    work = out / WORK_NAME
    if out.exists() and not work.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and holds no shard set; choose another folder")
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{out} is being packed by another process; wait for it") from None
        job_file = work / JOB_NAME
        if job_file.exists():
            _refuse_difference(job, json.loads(job_file.read_bytes()), out)
        else:
            write_file(job_file, json.dumps(job).encode())
        for leftover in [*out.glob("*.tmp"), *work.glob("*.tmp")]:
            leftover.unlink(missing_ok=True)  # of a killed run
        yield


def _run(
    tasks: list[ShardTask],
    executor: Executor,
    on_progress: Callable[[ShardTask, ShardReport, bool], None],
) -> list[ShardReport]:
    """Run what is not yet done; the reports come back in the order of the tasks."""
    reports: dict[int, ShardReport] = {}
    todo: list[int] = []
    for at, task in enumerate(tasks):
        report = _finished(task)
        if report is None:
            todo.append(at)
        else:
            reports[at] = report
            on_progress(task, report, False)
    running: dict[Future[ShardReport], int] = {
        executor.submit(pack_shard, tasks[i]): i for i in todo
    }
    try:
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                at = running.pop(future)
                reports[at] = future.result()
                on_progress(tasks[at], reports[at], True)
    except BrokenProcessPool:
        raise JobError(
            "a packing process was killed, perhaps for want of memory; the finished shards are "
            "kept: run the same command again, with fewer --workers if it happens again"
        ) from None
    except OSError as error:
        raise JobError(
            f"packing stopped: {describe_os_error(error)}; the finished shards are kept: mend it "
            "and run the same command again"
        ) from None
    finally:
        for future in running:
            future.cancel()
    return [reports[at] for at in range(len(tasks))]


def _finished(task: ShardTask) -> ShardReport | None:
    """The report of a shard that an earlier run completed, if its files are still whole."""
    try:
        report = ShardReport.from_json(task.report_path.read_bytes())
        whole = all(
            (task.out / name).stat().st_size == info.bytes for name, info in report.files.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return report if whole else None


def _publish(
    catalog: Catalog,
    out: Path,
    job: dict[str, Any],
    tasks: list[ShardTask],
    reports: list[ShardReport],
    max_rejected: float,
) -> Manifest:
    rejected = [
        (task.split, path, reason)
        for task, report in zip(tasks, reports, strict=True)
        for path, reason in report.rejected
    ]
    files = sum(len(split) for split in catalog.splits.values())
    if len(rejected) > max_rejected * files:
        write_rejected(out, rejected)
        reasons = Counter(reason for _, _, reason in rejected).most_common(3)
        raise JobError(
            f"{len(rejected):,} of {files:,} photographs were rejected "
            f"({', '.join(f'{count} {reason}' for reason, count in reasons)}), more than "
            f"--max-rejected {max_rejected:.1%} allows; nothing is published. See "
            f"{out / 'rejected.csv'}, then mend the files or allow more"
        )
    records: dict[str, npt.NDArray[np.void]] = {}
    rows: dict[str, npt.NDArray[np.int32]] = {}
    splits: dict[str, SplitInfo] = {}
    for name, split in catalog.splits.items():
        parts = [r for t, r in zip(tasks, reports, strict=True) if t.split == name]
        records[name] = np.concatenate([part.records for part in parts])
        rows[name] = _sample_of_rows(split, records[name])
        splits[name] = SplitInfo(
            rows=len(split.rows),
            files=len(split),
            samples=len(records[name]),
            shards=len(parts),
            bytes=int(records[name]["size"].sum(dtype=np.int64)),
        )
    manifest = Manifest(
        class_names=catalog.class_names,
        splits=splits,
        **job,
        fingerprint=fingerprint(**job),
        stored=dict(sorted(sum((Counter(r.stored) for r in reports), Counter[str]()).items())),
        rejected=dict(sorted(Counter(reason for _, _, reason in rejected).items())),
        pixels=_pixel_stats(tasks, reports, records),
        files={name: info for report in reports for name, info in report.files.items()},
    )
    return publish(out, manifest, records, rows, rejected)


def _sample_of_rows(split: SplitCatalog, records: npt.NDArray[np.void]) -> npt.NDArray[np.int32]:
    """Sample id of every CSV row; ``-1 - label`` where its file was rejected."""
    sample_of_file = (-1 - split.labels).astype(np.int32)
    sample_of_file[records["key"]] = np.arange(len(records), dtype=np.int32)
    return sample_of_file[split.rows].astype("<i4")


def _pixel_stats(
    tasks: list[ShardTask], reports: list[ShardReport], records: dict[str, npt.NDArray[np.void]]
) -> dict[str, PixelStats]:
    """Of the training pixels, every image with equal weight as crops of one size have."""
    pairs = [(t, r) for t, r in zip(tasks, reports, strict=True) if t.split == "train"]
    moments = sum((report.moments for _, report in pairs), np.zeros((2, 2, 3)))
    images = np.array([len(records["train"]), records["train"]["repeats"].sum(dtype=np.int64)])
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
