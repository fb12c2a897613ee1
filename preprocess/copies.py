"""Which photographs are copies of each other, and how their splits and labels contradict that."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from preprocess.csv_text import csv_errors, describe_header, open_csv
from preprocess.photo_hash import PhotoHash, near_pairs
from shards.errors import UserError
from shards.writer import write_file

DEFAULT_THRESHOLD = 4
"""Bits of 64 by which near copies may differ.

Tried on flowers17 (1,360 photographs, 924,120 pairs). Of 300 photographs, this share is found when
copied so:

=========================  ====  ====  ====  ====
at most this many bits        2     4     6     8
=========================  ====  ====  ====  ====
JPEG quality 90, 50, 20     99%  100%  100%  100%
half or twice the size      97%  100%  100%  100%
shorter side 150 px         98%  100%  100%  100%
brighter by a fifth         81%   96%  100%  100%
2 % cropped, all round      69%   94%  100%  100%
5 % cropped, all round      10%   45%   75%   94%
5 % cropped, one corner      0%    2%   12%   28%
=========================  ====  ====  ====  ====

The data set itself holds 71 pairs up to 10 bits; the 16 of them that were looked at (12 at 0 bits, one
each at 2, 4, 8 and 10) are real copies. At 12 bits there are 17 more, several across species, at 14
another 107, at 16 another 568: sixfold with every step. Carried on to 104,000 photographs (5.4e9 pairs) that is of the order of a hundred false pairs
at 4 bits and thousands at 8. So 4 for a large set; for a small one 8 finds more and is still clean.
"""

COLUMNS = ("kind", "distance", "split_a", "path_a", "label_a", "split_b", "path_b", "label_b")
SPLIT_RANK = {"test": 0, "val": 1, "train": 2}
"""Of several copies the one in the most precious split stands for all."""

Kind = Literal["exact", "near"]
HASH_BITS = 64
"""Of a perceptual hash; no two differ in more."""


@dataclass(frozen=True, slots=True, order=True)
class Photo:
    """A photograph by name."""

    split: str
    path: str
    label: str


@dataclass(frozen=True, slots=True)
class Copy:
    """Two photographs that are one."""

    kind: Kind
    distance: int
    """Bits of 64; 0 where they are exact."""
    a: Photo
    b: Photo

    @property
    def across_splits(self) -> bool:
        """Whether the same is trained on and tested on: leakage."""
        return self.a.split != self.b.split

    @property
    def across_labels(self) -> bool:
        """Whether the same is called by two names: a contradiction."""
        return self.a.label != self.b.label


def find_copies(
    photos: Sequence[Photo], hashes: Sequence[PhotoHash], threshold: int = DEFAULT_THRESHOLD
) -> list[Copy]:
    """Pair the copies, worst first: across splits and labels, across splits, across labels, inside.

    A content under n names gives n - 1 pairs, each with its first name (test before val before
    train, then by path). The same holds for different contents with one hash, and only the first of
    them is paired with other hashes: thousands of copies of a placeholder stay thousands of pairs.
    """
    order = sorted(range(len(photos)), key=lambda at: (SPLIT_RANK[photos[at].split], photos[at]))
    copies: list[Copy] = []
    first_of_content: dict[bytes, int] = {}
    first_of_look: dict[int, int] = {}
    for at in order:
        content, look = hashes[at].content, hashes[at].look
        if content is None:
            continue
        first = first_of_content.setdefault(content, at)
        if first != at:
            copies.append(Copy("exact", 0, photos[first], photos[at]))
        elif look is not None:
            first = first_of_look.setdefault(look, at)
            if first != at:
                copies.append(Copy("near", 0, photos[first], photos[at]))
    firsts = list(first_of_look.values())  # in the order above
    looks = np.fromiter(first_of_look, np.uint64, len(firsts))
    for one, other, distance in zip(*near_pairs(looks, threshold), strict=True):
        low, high = min(one, other), max(one, other)
        copies.append(Copy("near", int(distance), photos[firsts[low]], photos[firsts[high]]))
    return sorted(copies, key=_severity)


def _severity(copy: Copy) -> tuple[object, ...]:
    return (not copy.across_splits, not copy.across_labels, copy.distance, copy.a, copy.b)


@dataclass(frozen=True, slots=True)
class Group:
    """Photographs that are all copies of each other."""

    members: list[Photo]
    near: list[int]
    """Positions of the groups that nearly are copies of this one."""


def group_copies(copies: Iterable[Copy]) -> list[Group]:
    """Join pairs at distance 0 into groups (equality is transitive; being near is not)."""
    pairs = list(copies)
    position: dict[Photo, int] = {}
    for copy in pairs:
        for photo in (copy.a, copy.b):
            position.setdefault(photo, len(position))
    leader = list(range(len(position)))

    def find(at: int) -> int:
        while leader[at] != at:
            leader[at] = at = leader[leader[at]]
        return at

    for copy in pairs:
        if copy.distance == 0:
            leader[find(position[copy.b])] = find(position[copy.a])
    groups: dict[int, Group] = {}
    number: dict[int, int] = {}
    for photo, at in sorted(position.items()):
        found = find(at)
        number.setdefault(found, len(number))
        groups.setdefault(found, Group([], [])).members.append(photo)
    for copy in pairs:
        one, other = find(position[copy.a]), find(position[copy.b])
        if one != other:
            groups[one].near.append(number[other])
            groups[other].near.append(number[one])
    return list(groups.values())


def write_copies(file: Path, copies: Iterable[Copy]) -> None:
    """``audit.csv``: a row a pair."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for copy in copies:
        a, b = copy.a, copy.b
        table.writerow(
            [copy.kind, copy.distance, a.split, a.path, a.label, b.split, b.path, b.label]
        )
    write_file(file, text.getvalue().encode(errors="surrogateescape"))


def read_copies(file: Path) -> list[Copy]:
    """Read ``audit.csv``, which may have been shortened by hand.

    Raises:
        UserError: No such file, or not such a table.
    """
    with open_csv(file) as stream:
        reader = csv.DictReader(stream)
        with csv_errors(file, reader.reader):
            _require_columns(file, reader.fieldnames or ())
            return [_copy_of(row, f"{file}, line {reader.line_num}") for row in reader]


def _require_columns(file: Path, columns: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise UserError(
            f"{file} is no audit.csv: it has no column {', '.join(missing)}, its header is "
            f"{describe_header(columns)}; `python -m preprocess audit DATA` writes one"
        )


def _copy_of(row: dict[str, Any], where: str) -> Copy:
    fields = [row[name] for name in COLUMNS]
    if None in fields:
        raise UserError(f"{where} has too few fields, expected {','.join(COLUMNS)}")
    kind, distance, *photos = fields
    if kind not in get_args(Kind):
        raise UserError(f"{where}: kind {kind!r} is neither exact nor near")
    if not re.fullmatch(r"\d{1,2}", distance, re.ASCII) or int(distance) > HASH_BITS:
        raise UserError(f"{where}: distance {distance!r} is no number from 0 to {HASH_BITS}")
    return Copy(kind, int(distance), Photo(*photos[:3]), Photo(*photos[3:]))
