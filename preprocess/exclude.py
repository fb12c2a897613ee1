"""Which training photographs to leave out because they are copies of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from preprocess.catalog import Catalog, name_with_hash
from preprocess.copies import Copy, Group, Photo, group_copies, read_copies
from shards.errors import UserError
from shards.rejects import EXCLUDED

SHOWN = 3


def exclude_copies(catalog: Catalog, file: Path) -> Catalog:
    """Leave out of train what an audit found, as :func:`copies_to_exclude` decides.

    Raises:
        UserError: The table is none, or was made of other photographs, or under other labels.
    """
    copies = read_copies(file)
    label_of = {
        (name, path): catalog.class_names[label]
        for name, split in catalog.splits.items()
        for path, label in zip(split.paths, split.labels.tolist(), strict=True)
    }
    named = {photo for copy in copies for photo in (copy.a, copy.b)}
    strangers = sorted(
        {
            f"{photo.path!r} of {photo.split}"
            for photo in named
            if (photo.split, photo.path) not in label_of
        }
    )
    if strangers:
        raise UserError(
            f"{file} names {len(strangers):,} photographs that are not in {catalog.root} "
            f"({', '.join(strangers[:SHOWN])}{', ...' if len(strangers) > SHOWN else ''}); "
            "audit this data set, with the same --seed, and use that table"
        )
    stale = sorted(
        f"{photo.path!r} ({photo.label!r} there, {now!r} in the data)"
        for photo in named
        if (now := label_of[photo.split, photo.path]) != photo.label
    )
    if stale:
        raise UserError(
            f"{file} gives {len(stale):,} photographs a label that they no longer have: "
            f"{', '.join(stale[:SHOWN])}{', ...' if len(stale) > SHOWN else ''}; audit again"
        )
    excluded = copies_to_exclude(copies)
    counts = Counter(
        reason.partition(" (")[0].removeprefix(EXCLUDED) for reason in excluded.values()
    )
    shares = ", ".join(f"{count:,} as {reason}" for reason, count in sorted(counts.items()))
    note = f"{file.name} leaves {len(excluded):,} photographs out of train"
    return replace(
        catalog,
        excluded=catalog.excluded | excluded,
        notes=[*catalog.notes, f"{note}: {shares}" if shares else note],
        asked=catalog.asked | {"--exclude": name_with_hash(file)},
    )


def copies_to_exclude(copies: Iterable[Copy]) -> dict[str, str]:
    """Path and reason of every training photograph to leave out.

    A copy of a val or test photograph goes, whatever its label. So do copies that bear different
    labels, all of them: nobody knows which is right. Of copies inside train under one label the
    first by path stays. val and test are never touched.
    """
    groups = group_copies(copies)
    excluded: dict[str, str] = {}
    kept: dict[int, Photo] = {}
    for number, group in enumerate(groups):
        around = [group, *(groups[near] for near in group.near)]
        evaluated = _first_evaluated(around)
        by_label = _first_by_label(around)
        stays = next((kept[near] for near in group.near if near in kept), None)
        for photo in group.members:
            if photo.split != "train":
                continue
            if evaluated is not None:
                what, other = f"copy of a {evaluated.split} photograph", evaluated
            elif len(by_label) > 1:
                what = "copy under another label"
                other = next(by_label[label] for label in by_label if label != photo.label)
            elif stays is not None:
                what, other = "copy within train", stays
            else:
                stays = kept[number] = photo
                continue
            excluded[photo.path] = f"{EXCLUDED}{what} ({other.path})"
    return excluded


def _first_evaluated(groups: Iterable[Group]) -> Photo | None:
    return next((each for group in groups for each in group.members if each.split != "train"), None)


def _first_by_label(groups: Iterable[Group]) -> dict[str, Photo]:
    first: dict[str, Photo] = {}
    for group in groups:
        for photo in group.members:
            first.setdefault(photo.label, photo)
    return first
