"""Exact and near copies inside a split, across splits (leakage) and across labels.

Exact means equal bytes (SHA-256); near means equal or almost equal perceptual hashes
(``preprocess/copies.py`` states what the threshold finds). In a shard set the stored images are
compared: equal files were stored as equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from preprocess.catalog import Catalog, Origin
from preprocess.contact_sheet import draw_sheet
from preprocess.copies import (
    DEFAULT_THRESHOLD,
    Copy,
    Photo,
    find_copies,
    group_copies,
    write_copies,
)
from preprocess.discover import read_catalog
from preprocess.photo_hash import OnHashed, hash_photos
from shards.format import MANIFEST_NAME, WORK_NAME, shard_name
from shards.reader import ShardSet

CSV_NAME = "audit.csv"
SHEET_PAIRS = 12
"""Pairs on a contact sheet."""

SHOWN = 5
PLACEHOLDER_NAMES = 3
"""One content under this many names is listed: most likely a placeholder, not a photograph."""

Relation = tuple[str, Callable[[Copy], bool]]
RELATIONS: tuple[Relation, ...] = (
    ("inside a split", lambda copy: not copy.across_splits),
    ("across splits", lambda copy: copy.across_splits),
    ("across labels", lambda copy: copy.across_labels),
)
Photos = dict[Photo, Origin]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found."""

    photos: Photos
    threshold: int
    """Bits of 64."""
    copies: list[Copy]
    """Worst first."""
    unreadable: list[Photo]
    """Could not be read; not compared."""
    undecodable: list[Photo]
    """Are no images, or damaged; compared by their bytes alone."""


def photos_of(data: Path, *, seed: int) -> Photos:
    """The photographs of a data set or of a shard set.

    Raises:
        UserError: It is neither, or the shard set is unfinished or damaged.
    """
    if (data / MANIFEST_NAME).is_file() or (data / WORK_NAME).is_dir():
        return dict(_photos_of_shards(ShardSet(data)))
    catalog = read_catalog(data, seed=seed, max_missing=1)
    return {
        photo: catalog.origin(photo.path)
        for split in catalog.splits
        for photo in photos_of_split(catalog, split)
    }


def photos_of_split(catalog: Catalog, split: str) -> list[Photo]:
    """The photographs of one split of a catalogue."""
    found = catalog.splits[split]
    return [
        Photo(split, path, catalog.class_names[label])
        for path, label in zip(found.paths, found.labels, strict=True)
    ]


def _photos_of_shards(shard_set: ShardSet) -> Iterator[tuple[Photo, Origin]]:
    names = shard_set.manifest.class_names
    for split in shard_set.manifest.splits:
        with shard_set.split(split, verify="never") as opened:
            for sample, record in enumerate(opened.samples):
                tar = shard_set.directory / shard_name(split, int(record["shard"]))
                yield (
                    Photo(split, opened.metadata(sample)["path"], names[record["label"]]),
                    Origin(tar, int(record["offset"]), int(record["size"])),
                )


def audit(
    photos: Photos,
    executor: Executor,
    *,
    threshold: int = DEFAULT_THRESHOLD,
    on_hashed: OnHashed = lambda count: None,
) -> Audit:
    """Hash all photographs and pair the copies.

    Args:
        photos: What to compare.
        executor: Runs the hashing; it must see the same files.
        threshold: Bits of 64 by which near copies may differ.
        on_hashed: Hears of the progress.
    """
    hashes = hash_photos(list(photos.values()), executor, on_hashed)
    named = list(zip(photos, hashes, strict=True))
    return Audit(
        photos=photos,
        threshold=threshold,
        copies=find_copies(list(photos), hashes, threshold),
        unreadable=[photo for photo, found in named if found.content is None],
        undecodable=[photo for photo, found in named if found.content and found.look is None],
    )


def write_audit(found: Audit, out: Path) -> list[Path]:
    """Write ``audit.csv`` and the contact sheets; those of an earlier audit go.

    Returns:
        The files written.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = [out / CSV_NAME]
    write_copies(files[0], found.copies)
    for kind in ("exact", "near"):
        for name, belongs in RELATIONS:
            worst = [each for each in found.copies if each.kind == kind and belongs(each)]
            sheet = out / f"{kind}-{name.replace(' ', '-')}.jpg"
            sheet.unlink(missing_ok=True)
            if worst:
                draw_sheet(sheet, worst[:SHEET_PAIRS], lambda photo: found.photos[photo].read())
                files.append(sheet)
    return files


def report(found: Audit) -> str:
    """The table, and the worst by name."""
    lines = [f"{'pairs of copies':<24}" + "".join(f"{name:>16}" for name, _ in RELATIONS)]
    for kind, title in (("exact", "exact"), ("near", f"near (<= {found.threshold} of 64 bits)")):
        these = [copy for copy in found.copies if copy.kind == kind]
        counts = (sum(map(belongs, these)) for _, belongs in RELATIONS)
        lines.append(f"{title:<24}" + "".join(f"{count:>16,}" for count in counts))
    lines += _worst("leakage, the same across splits", [c for c in found.copies if c.across_splits])
    lines += _worst(
        "contradictions, the same under two labels", [c for c in found.copies if c.across_labels]
    )
    lines += _placeholders(found)
    for title, photos in (
        ("could not be read and were not compared", found.unreadable),
        ("do not decode and were compared by their bytes alone", found.undecodable),
    ):
        if photos:
            shown = ", ".join(_name(photo) for photo in photos[:SHOWN])
            more = ", ..." if len(photos) > SHOWN else ""
            lines.append(f"{len(photos):,} photographs {title}: {shown}{more}")
    return "\n".join(lines)


def _worst(title: str, copies: list[Copy]) -> list[str]:
    lines = [f"{title}:"] if copies else []
    lines += [
        f"  {copy.kind} {copy.distance:>2}  {_name(copy.a)}  =  {_name(copy.b)}"
        for copy in copies[:SHOWN]
    ]
    if len(copies) > SHOWN:
        lines.append(f"  ... and {len(copies) - SHOWN:,} more")
    return lines


def _placeholders(found: Audit) -> list[str]:
    groups = [
        group.members
        for group in group_copies(copy for copy in found.copies if copy.distance == 0)
        if len(group.members) >= PLACEHOLDER_NAMES
    ]
    groups.sort(key=len, reverse=True)
    lines = []
    for members in groups[:SHOWN]:
        labels = len({photo.label for photo in members})
        lines.append(
            f"one picture under {len(members):,} names and {labels:,} "
            f"label{'s' if labels > 1 else ''}"
            f"{' (a placeholder?)' if labels > 1 else ''}: {_name(members[0])}, "
            f"{_name(members[1])}, ..."
        )
    if len(groups) > SHOWN:
        lines.append(f"... and {len(groups) - SHOWN:,} more pictures under several names")
    return lines


def _name(photo: Photo) -> str:
    text = f"{photo.split} {photo.path} ({photo.label})"
    return text.encode(errors="surrogateescape").decode(errors="replace")
