"""Which samples, in which order: pure NumPy, computed from labels and repetitions alone.

The order of an epoch depends on (seed, epoch) and on nothing else: not on the back end, the number
of threads or ranks, or where a run was resumed. Ranks take their share of each global batch, so
that their batches interleave to the same order. Eleven samples, global batch 4, two ranks::

    position      0  1  2  3 | 4  5  6  7 | 8  9 10
    rank 0        0  1       | 4  5       | 8
    rank 1              2  3 |       6  7 |    9 10
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from shards.reader import Split

Sampling = Literal["csv", "natural"]
Ids = npt.NDArray[np.int64]

MINI_SEED = 42
"""The baseline's own: ``DataFrame.sample(n, random_state=42)`` for each class."""


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """One rank's share of a global batch."""

    step: int
    first_position: int
    """Place of the first sample in the epoch's order; the others follow it without a gap."""
    ids: Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The samples of an epoch and the order in which each epoch shows them."""

    ids: Ids
    """``(M,)`` sample ids with repetition: what one epoch holds, in no meaningful order."""
    seed: int
    shuffle: bool
    batch_size: int
    """Global: over all ranks."""
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False

    def __len__(self) -> int:
        """Images an epoch over all ranks."""
        return self.steps_per_epoch * self.batch_size if self.drop_last else len(self.ids)

    @property
    def steps_per_epoch(self) -> int:
        """Global batches an epoch."""
        whole, rest = divmod(len(self.ids), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> Ids:
        """``(M,)`` the sample ids of an epoch, in the order in which all ranks together show them.

        Sorting raw counter-based bits keeps the order the same in every NumPy version, which
        ``Generator.permutation`` does not promise.
        """
        if not self.shuffle:
            return self.ids
        keys = np.random.Philox(key=[self.seed, epoch]).random_raw(len(self.ids))
        return self.ids[np.argsort(keys, kind="stable")]

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[PlannedBatch]:
        """This rank's share of every global batch from ``first_step`` on.

        A short last batch is split over the ranks as evenly as possible; a share may be empty.
        """
        order = self.order(epoch)
        for step in range(first_step, self.steps_per_epoch):
            start = step * self.batch_size
            count = min(self.batch_size, len(order) - start)
            first = start + count * self.rank // self.world_size
            last = start + count * (self.rank + 1) // self.world_size
            yield PlannedBatch(step, first, order[first:last])

    def order_hash(self) -> str:
        """16 hex digits that two runs share exactly if they see the same samples in the same order.

        Covers the order of epoch 0 and the global batch size; later epochs follow from the seed.
        """
        hashed = hashlib.sha256(f"{self.seed} {self.batch_size} {self.drop_last} ".encode())
        hashed.update(self.order(0).astype("<i8").tobytes())
        return hashed.hexdigest()[:16]


def epoch_ids(split: Split, sampling: Sampling, mini: int | None = None) -> Ids:
    """The sample ids of one epoch, with repetition.

    Args:
        split: Where labels and repetitions come from.
        sampling: ``csv``, each photograph as often as the CSV names it (the official balanced
            epoch), or ``natural``, each once.
        mini: At most so many CSV rows of each class, chosen as the baseline chooses them.
    """
    ids = np.arange(len(split), dtype=np.int64)
    repeats = split.repeats if mini is None else mini_repeats(split, mini)
    return ids[repeats > 0] if sampling == "natural" else np.repeat(ids, repeats)


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
