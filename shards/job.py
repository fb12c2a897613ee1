"""A packing job under way: what lies in ``.pack/`` until the set is published.

Any number of processes on any number of machines may make shards of one job, as long as they share
the folder. Each finished shard leaves a report; ``shards.merge`` turns all reports into a set.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.errors import ShardError, UserError
from shards.format import MANIFEST_NAME, SPLITS, WORK_NAME, Manifest
from shards.sealed_json import parse_object, seal, unseal
from shards.writer import npy_bytes, write_file

JOB_NAME = "job.json"
LOCK_NAME = "lock"


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
        digests = [(source["layout"], source["digest"]) for source in (self.source, made.source)]
        if digests[0] != digests[1]:
            differences += _asked_differently(self.source, made.source) or [
                "other photographs, labels or splits than now"
            ]
        if differences:
            raise UserError(
                f"{directory} holds a shard set made differently ({'; '.join(differences)}); "
                "choose another folder with --out, or remove that one"
            )


def _asked_differently(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The options, besides those of the images, that differ between two sources."""
    here, there = ours.get("asked", {}), theirs.get("asked", {})
    return [
        f"{name} {there.get(name, 'not given')} there, {here.get(name, 'not given')} now"
        for name in sorted({*here, *there})
        if here.get(name) != there.get(name)
    ]


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
    """The work folder of a job, created or found again, and held.

    Args:
        directory: Of the set.
        job: What is to be made.
        splits: Their catalogues.
        alone: Refuse others at work on the same set; False for slices that run side by side.

    Raises:
        UserError: The folder is a file, holds something else or another job, or is being packed.
    """
    work = directory / WORK_NAME
    _refuse_other_content(directory)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create {directory}: {error.strerror}; choose another") from None
    with hold_work(directory, alone=alone):
        if (directory / MANIFEST_NAME).exists():
            raise UserError(f"{directory} was published by another process just now; run it again")
        if (work / JOB_NAME).exists():
            job.refuse_difference(read_job(directory), directory)
        # Written each time: what was damaged since is mended.
        tables = {
            name: write_file(work / name, npy_bytes(column)).sha256
            for split_name, split in splits.items()
            for name, column in (
                (f"{split_name}.labels.npy", split.labels),
                (f"{split_name}.rows.npy", split.rows),
            )
        }
        content = {"job": asdict(job), "tables": tables}
        write_file(work / JOB_NAME, seal(content).encode())
        if alone:
            for leftover in [*directory.glob("*.tmp"), *work.glob("*.tmp")]:
                leftover.unlink(missing_ok=True)  # of a killed run
        yield


def refuse_other_job(directory: Path, job: Job) -> None:
    """Raise :class:`UserError` where a folder holds a set made differently, or something else.

    Raises:
        ShardError: The manifest, or the record of the job, is damaged.
    """
    if (directory / MANIFEST_NAME).exists():
        job.refuse_difference(Job.of_manifest(Manifest.read(directory)), directory)
        return
    _refuse_other_content(directory)
    if (directory / WORK_NAME / JOB_NAME).exists():
        job.refuse_difference(read_job(directory), directory)


def _refuse_other_content(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file, expected a folder for the shard set")
    work = directory / WORK_NAME
    if work.exists() and not work.is_dir():
        raise UserError(f"{work} is a file, expected the folder of unfinished work; remove it")
    if directory.exists() and not work.exists() and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty and holds no shard set; choose another folder")


@contextmanager
def hold_work(directory: Path, *, alone: bool = True) -> Iterator[None]:
    """Hold the work folder of a set; the system lets go of it when the process ends, however.

    Args:
        directory: Of the set; its work folder exists.
        alone: Refuse all others; False to refuse only those who want it alone.

    Raises:
        UserError: Another process holds it.
    """
    with (directory / WORK_NAME / LOCK_NAME).open("w") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{directory} is being packed by another process; wait for it"
            ) from None
        if not os.fstat(lock.fileno()).st_nlink:
            raise UserError(f"{directory} was published by another process just now; run it again")
        yield


def drop_work(directory: Path) -> None:
    """Remove what packing left beside a published set."""
    shutil.rmtree(directory / WORK_NAME, ignore_errors=True)


def read_job(directory: Path) -> Job:
    """The job of a work folder.

    Raises:
        ShardError: It is damaged, so that nobody knows how the shards were made.
    """
    content = _read_content(directory)["job"]
    shards = content["shards"]
    return Job(
        **content
        | {
            "class_names": tuple(content["class_names"]),
            "shards": {name: shards[name] for name in SPLITS if name in shards},
        }
    )


def read_job_split(directory: Path, name: str) -> JobSplit:
    """The catalogue of a split, as :func:`open_job` wrote it.

    Raises:
        ShardError: It is missing or damaged.
    """
    hashes = _read_content(directory)["tables"]

    def column(file_name: str) -> npt.NDArray[np.int32]:
        path = directory / WORK_NAME / file_name
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != hashes[file_name]:
            raise ShardError(f"{path} is damaged; run the packing command again, it mends it")
        table: npt.NDArray[np.int32] = np.load(io.BytesIO(data), allow_pickle=False)
        return table

    return JobSplit(labels=column(f"{name}.labels.npy"), rows=column(f"{name}.rows.npy"))


def _read_content(directory: Path) -> dict[str, Any]:
    path = directory / WORK_NAME / JOB_NAME
    try:
        return unseal(parse_object(path.read_bytes()))
    except (OSError, ValueError):
        raise ShardError(f"{path} is damaged; remove {directory} and pack again") from None
