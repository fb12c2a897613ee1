"""Which samples of a split take part, and how many CSV rows each of them stands for.

Applied in this order, each to what the one before left: classes, fold, then one of ``mini``,
``shots`` and ``imbalance``. Labels keep their numbers, so that class names, checkpoints and
confusion matrices mean the same with and without a subset. Everything but ``mini`` chooses distinct
photographs and leaves their rows as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from loaders.draws import Ids, Purpose, class_ranks, random_bits, random_order
from shards.errors import UserError, unknown_name
from shards.reader import Split
from shards.user_paths import require_regular_file

Mask = npt.NDArray[np.bool_]

MINI_SEED = 42
"""The baseline's own: ``DataFrame.sample(n, random_state=42)`` for each class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """A part of a split; by default all of it."""

    classes: tuple[str, ...] = ()
    """These alone."""
    holdout: tuple[str, ...] = ()
    """All but these."""
    fold: tuple[int, int] | None = None
    """``(I, N)``, I from 0 to N - 1: each class is dealt into N folds, and fold I is set aside."""
    fold_part: Literal["train", "val"] = "train"
    """``train``: all but fold I; ``val``: fold I alone."""
    mini: int | None = None
    """At most so many CSV rows of each class, drawn as the baseline draws them."""
    shots: int | None = None
    """Exactly so many samples of each class; more shots contain fewer."""
    imbalance: float | None = None
    """A long tail: the largest class has this many times the samples of the smallest."""
    seed: int = 0
    """Of folds, shots and the long tail; not that of training, whose seed may vary by itself."""

    def __post_init__(self) -> None:
        for name in ("mini", "shots"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.imbalance is not None and not 1 <= self.imbalance < float("inf"):
            raise ValueError(f"imbalance must be 1 or more, got {self.imbalance}")
        if self.fold is not None and not (0 <= self.fold[0] < self.fold[1] and self.fold[1] > 1):
            raise ValueError(
                f"fold {self.fold[0]}/{self.fold[1]} is not I/N with N of 2 or more and I from 0 "
                "to N-1"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"subset_seed must be from 0 to 2**63 - 1, got {self.seed}")
        for group in (("mini", "shots", "imbalance"), ("classes", "holdout")):
            given = [name for name in group if getattr(self, name)]
            if len(given) > 1:
                raise ValueError(f"{' and '.join(given)} exclude each other; choose one of them")

    def __str__(self) -> str:
        """``'3 classes held out, all but fold 0/5, 10 shots a class'``; empty for a whole split."""
        parts = []
        for names, fate in ((self.classes, "kept"), (self.holdout, "held out")):
            if names:
                parts.append(f"{len(names)} {'classes' if len(names) > 1 else 'class'} {fate}")
        if self.fold is not None:
            but = "all but " if self.fold_part == "train" else ""
            parts.append(f"{but}fold {self.fold[0]}/{self.fold[1]}")
        if self.mini is not None:
            parts.append(f"at most {self.mini} rows a class")
        if self.shots is not None:
            parts.append(f"{self.shots} shots a class")
        if self.imbalance is not None:
            parts.append(f"imbalance {self.imbalance:g}")
        return ", ".join(parts)

    def repeats(self, split: Split) -> Ids:
        """``(N,)`` CSV rows that each sample stands for; 0 leaves it out.

        Raises:
            UserError: A class that does not exist, or fewer samples than were asked for.
        """
        labels, names = split.labels, split.manifest.class_names
        repeats = split.repeats if self.mini is None else mini_repeats(split, self.mini)
        keep = (repeats > 0) & self.kept_classes(names)[labels]
        if self.fold is not None:
            index, count = self.fold
            keep &= (folds(labels, count, self.seed) == index) == (self.fold_part == "val")
        if self.shots is not None:
            _check_shots(labels[keep], self.shots, names)
            keep[keep] = self._first(labels, keep, np.full(len(names), self.shots))
        if self.imbalance is not None:
            counts = np.bincount(labels[keep], minlength=len(names))
            sizes = long_tail_sizes(counts, self.imbalance, self.seed)
            keep[keep] = self._first(labels, keep, sizes)
        return np.where(keep, repeats, 0)

    def kept_classes(self, names: tuple[str, ...]) -> Mask:
        """``(K,)`` which classes take part.

        Raises:
            UserError: One that was named does not exist.
        """
        for name in (*self.classes, *self.holdout):
            if name not in names:
                raise UserError(unknown_name("class", name, names))
        if self.classes:
            return np.isin(names, self.classes)
        return ~np.isin(names, self.holdout)

    def _first(self, labels: Ids, keep: Mask, sizes: Ids) -> Mask:
        """Of the kept samples, the first ``sizes[label]`` of each class in its seeded order."""
        bits = random_bits(len(labels), self.seed, Purpose.SUBSET)
        return class_ranks(labels[keep], bits[keep]) < sizes[labels[keep]]


def folds(labels: Ids, count: int, seed: int) -> Ids:
    """``(N,)`` the fold of each sample, from 0 to count - 1.

    Samples are sorted by class, and by random bits within a class, and dealt out in turn: within a
    class and in all, the sizes of two folds differ by one at most.
    """
    order = np.lexsort((random_bits(len(labels), seed, Purpose.FOLDS), labels))
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % count
    return fold


def long_tail_sizes(counts: Ids, factor: float, seed: int) -> Ids:
    """``(K,)`` samples to keep of each class, so that sizes fall exponentially by ``factor``.

    The class at place i of a seeded order of C classes keeps ``n_max * factor ** (-i / (C - 1))``,
    rounded (the profile of Cui et al. 2019, arXiv:1901.05555). Classes differ in size here, so
    n_max is the largest number for which every class has enough.

    Args:
        counts: ``(K,)`` samples of each class; a class without any has no place in the order.
        factor: Size of the largest class over that of the smallest, at least 1.
        seed: Of the order of the classes.

    Raises:
        UserError: The smallest class would keep less than one sample.
    """
    order = random_order(len(counts), seed, Purpose.LONG_TAIL)
    order = order[counts[order] > 0]
    sizes = np.zeros_like(counts)
    if not len(order):
        return sizes
    share = factor ** (-np.arange(len(order)) / max(len(order) - 1, 1))
    n_max = int(np.floor(counts[order] / share).min())
    if n_max < factor and len(order) > 1:
        raise UserError(
            f"imbalance {factor:g} is too large: the largest class can keep {n_max} samples, and "
            "the smallest would keep less than one; choose a smaller one"
        )
    sizes[order] = np.rint(n_max * share)
    return sizes


def mini_repeats(split: Split, rows_per_class: int) -> Ids:
    """``(N,)`` how often each sample occurs among the rows that the baseline's ``mini`` draws.

    For each class it draws ``min(rows_per_class, rows)`` of its CSV rows without replacement by
    ``RandomState(42).choice``, which is what pandas' ``sample(n, random_state=42)`` calls. A file
    that was rejected at packing takes its draw with it.
    """
    samples = split.rows.astype(np.int64)
    labels = -1 - samples  # of the rejected rows; the others follow
    packed = samples >= 0
    labels[packed] = split.labels[samples[packed]]
    picked = [
        rows[
            np.random.RandomState(MINI_SEED).choice(
                len(rows), min(rows_per_class, len(rows)), replace=False
            )
        ]
        for label in range(split.manifest.num_classes)
        if len(rows := np.flatnonzero(labels == label))
    ]
    drawn = samples[np.concatenate(picked)]
    return np.bincount(drawn[drawn >= 0], minlength=len(split)).astype(np.int64)


def read_names(values: Iterable[str]) -> tuple[str, ...]:
    """Class names as they are typed: ``A,B``, or ``@FILE`` with one name a line; each once.

    Raises:
        UserError: A file that cannot be read, or a value that names no class: taken for "all of
            them", an empty list would choose the opposite of what was asked for.
    """
    found: dict[str, None] = {}
    for value in values:
        file = value[1:] if value.startswith("@") else None
        names = value.split(",") if file is None else _lines(file)
        stripped = [name.strip() for name in names if name.strip()]
        if not stripped:
            where = repr(value if file is None else file)
            expected = "A,B or @FILE" if file is None else "one a line"
            raise UserError(f"no class names in {where}, expected {expected}")
        found |= dict.fromkeys(stripped)
    return tuple(found)


def _lines(file: str) -> list[str]:
    """Of a text file, which may begin with a byte order mark."""
    try:
        return require_regular_file(Path(file)).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read class names from {file!r}: {error}") from None
    except UserError as error:
        raise UserError(f"no class names: {error.message}") from None


def _check_shots(labels: Ids, shots: int, names: tuple[str, ...]) -> None:
    """Refuse a class that has some samples, but not enough."""
    counts = np.bincount(labels, minlength=len(names))
    few = [label for label in np.flatnonzero(counts) if counts[label] < shots]
    if few:
        least = min(few, key=lambda label: int(counts[label]))
        raise UserError(
            f"{shots} shots: {len(few)} of {np.count_nonzero(counts)} classes are too small, least "
            f"{names[least]!r} with {counts[least]} samples; choose at most {counts[least]}, or "
            "leave small classes out with --holdout"
        )
