"""A shard as one pure task over a fixed range of the catalogue."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.catalog import Catalog, Origin
from preprocess.image import ImageOptions, Original, StoredImage, store_image
from preprocess.rejected import RejectedImage
from shards.shard_report import ShardReport
from shards.writer import Sample, write_shard

MAX_SHARD_FILES = 1000
MIN_SHARD_FILES = 64
MISSING_FILE, UNREADABLE_FILE = "missing", "unreadable"
UNREAD = (MISSING_FILE, UNREADABLE_FILE)
"""Reasons that lie with the disk, not with the photograph."""

SOURCE = "source"
"""The metadata field by which added photographs are counted."""

SHARDS_WANTED = 16
"""Small splits are cut into about this many shards, so that every core and reader gets some."""


def shard_tasks(catalog: Catalog, out: Path, options: ImageOptions) -> Iterator[ShardTask]:
    """Cut every split into ranges whose size depends on the split alone, never on the machine."""
    for name, split in catalog.splits.items():
        count = shard_files(len(split))
        for shard, first in enumerate(range(0, len(split), count)):
            part = slice(first, first + count)
            paths = split.paths[part]
            excluded = catalog.excluded if name == "train" else {}
            yield ShardTask(
                root=catalog.root,
                out=out,
                split=name,
                shard=shard,
                first_key=first,
                paths=paths,
                labels=split.labels[part].tolist(),
                repeats=split.repeats[part].tolist(),
                times=split.times[part],
                options=options,
                origins={path: catalog.origins[path] for path in paths if path in catalog.origins},
                excluded={path: excluded[path] for path in paths if path in excluded},
            )


def shard_files(files: int) -> int:
    """Photographs a shard of a split of ``files``.

    >>> shard_files(688), shard_files(8000), shard_files(72_870)
    (64, 500, 1000)
    """
    return max(MIN_SHARD_FILES, min(MAX_SHARD_FILES, -(-files // SHARDS_WANTED)))


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
    times: npt.NDArray[np.int64]
    """``(files,)`` when each photograph was last modified, as found when the catalogue was read."""
    options: ImageOptions
    origins: dict[str, Origin] = field(default_factory=dict)
    """As in the catalogue, of these paths."""
    excluded: dict[str, str] = field(default_factory=dict)
    """As in the catalogue, of these paths."""


def pack_shard(task: ShardTask) -> ShardReport:
    """Make one shard: read, check, resize, write. A pure function of its task and the files."""
    cv2.setNumThreads(1)  # parallelism is one process a core; OpenCV's own would oversubscribe
    stored: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    rejected: list[tuple[str, str]] = []
    originals: Counter[str] = Counter()
    moments = np.zeros((2, 2, 3))
    bytes_read = 0

    def samples() -> Iterator[Sample]:
        nonlocal bytes_read
        for at, (path, label, repeats) in enumerate(
            zip(task.paths, task.labels, task.repeats, strict=True)
        ):
            origin = task.origins.get(path) or Origin(task.root / path)
            try:
                if path in task.excluded:
                    raise RejectedImage(task.excluded[path])
                data = _read(origin)
                image = store_image(
                    data,
                    task.options,
                    task.options.store_of(path),
                    statistics=task.split == "train",
                )
            except RejectedImage as reason:
                rejected.append((path, str(reason)))
                continue
            bytes_read += len(data)
            stored[image.how] += 1
            _add_moments(moments, image, repeats)
            _count_original(originals, image.original)
            metadata = json.loads(origin.metadata) | {"path": path}
            if SOURCE in metadata:
                sources[metadata[SOURCE]] += 1
            yield Sample(
                key=task.first_key + at,
                label=label,
                repeats=repeats,
                payload=image.payload,
                extension=image.extension,
                width=image.width,
                height=image.height,
                metadata=metadata,
            )

    written = write_shard(task.out, task.split, task.shard, samples())
    report = ShardReport(
        records=written.records,
        files=written.files,
        stored=dict(stored),
        rejected=rejected,
        bytes_read=bytes_read,
        times=task.times,
        moments=moments,
        originals=dict(originals),
        sources=dict(sources),
    )
    report.write(task.out, task.split, task.shard)
    return report


def _read(origin: Origin) -> bytes:
    try:
        return origin.read()
    except FileNotFoundError:
        raise RejectedImage(MISSING_FILE) from None
    except OSError:
        raise RejectedImage(UNREADABLE_FILE) from None


def _add_moments(moments: npt.NDArray[np.float64], image: StoredImage, repeats: int) -> None:
    if image.mean is not None:
        both = np.array((image.mean, image.mean_square))
        moments[0] += both
        moments[1] += both * repeats


def _count_original(sums: Counter[str], original: Original) -> None:
    """Add to sums of whole numbers, so that their order does not matter."""
    sums["photos"] += 1
    sums["width"] += original.width
    sums["height"] += original.height
    if original.jpeg_quality is not None:
        sums["jpegs"] += 1
        sums["quality"] += original.jpeg_quality
