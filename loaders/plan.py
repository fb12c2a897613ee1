"""In which order samples are shown: pure NumPy, computed from labels and repetitions alone.

An epoch depends on (seed, epoch) and on nothing else: not on the back end, the number of threads or
ranks, or where a run was resumed. Ranks take their share of each global batch, so that their batches
interleave to the same order. Eleven samples, global batch 4, two ranks::

    position      0  1  2  3 | 4  5  6  7 | 8  9 10
    rank 0        0  1       | 4  5       | 8
    rank 1              2  3 |       6  7 |    9 10

``docs/plan.md`` explains every sampling and subset.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from loaders.draws import Ids, Purpose, class_ranks, random_bits, random_order
from shards.errors import UserError

Sampling = Literal["csv", "natural", "balanced", "sqrt"]


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """One rank's share of a global batch."""

    step: int
    first_position: int
    """Place of the first sample in the epoch's order; the others follow it without a gap."""
    ids: Ids


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """The samples of every epoch and their order.

    Raises:
        UserError: From the constructor, where the epoch is too small for every class to be in it.
    """

    repeats: Ids
    """``(N,)`` CSV rows that name each sample; 0 leaves it out."""
    labels: Ids
    """``(N,)`` class of each sample."""
    sampling: Sampling = "csv"
    """``csv`` and ``natural`` are passes: each row, or each sample, once before any is shown again,
    also across epochs. ``balanced`` and ``sqrt`` are quotas: each epoch holds a fixed number of
    images of each class, the same or in proportion to the square root of its samples."""
    epoch_size: int | None = None
    """Images an epoch; by default one pass, and for quotas the number of samples."""
    seed: int
    shuffle: bool
    batch_size: int
    """Global: over all ranks."""
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    images_per_epoch: int = field(init=False)
    """Before ``drop_last`` takes its part; 0 where no sample takes part."""

    def __post_init__(self) -> None:
        one_pass = len(self._one_pass())
        size = (self.epoch_size or one_pass) if one_pass else 0
        object.__setattr__(self, "images_per_epoch", size)
        if self._has_quotas:
            self._check_quotas()

    def __len__(self) -> int:
        """Images an epoch over all ranks."""
        return self.steps_per_epoch * self.batch_size if self.drop_last else self.images_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Global batches an epoch."""
        whole, rest = divmod(self.images_per_epoch, self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> Ids:
        """Sample ids of an epoch, in the order in which all ranks together show them.

        ``(images_per_epoch,)``.
        """
        if self._has_quotas:
            return self._shuffled(self._fill_quotas(epoch), epoch)
        return self._window(epoch)

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

        Covers all that decides the order of any epoch, and the order of epoch 0 itself, which also
        depends on what NumPy makes of the seed.
        """
        facts = (self.seed, self.shuffle, self.batch_size, self.drop_last, self.images_per_epoch)
        hashed = hashlib.sha256(repr(facts).encode())
        chosen = self._one_pass()
        quotas = self._quotas()[self.labels[chosen]] if self._has_quotas else chosen[:0]
        classes = self.labels[chosen] if self._has_quotas else chosen[:0]
        for part in (chosen, classes, quotas, self.order(0)):
            hashed.update(len(part).to_bytes(8, "little") + part.astype("<i8").tobytes())
        return hashed.hexdigest()[:16]

    def class_counts(self, num_classes: int) -> Ids:
        """``(num_classes,)`` images of each class in a pass, or for quotas in an epoch."""
        if self._has_quotas:
            quotas = self._quotas()
            return np.pad(quotas, (0, num_classes - len(quotas)))
        return np.bincount(self.labels[self._one_pass()], minlength=num_classes)

    @property
    def _has_quotas(self) -> bool:
        return self.sampling in ("balanced", "sqrt")

    def _one_pass(self) -> Ids:
        """Each row, or each sample, once, in stored order."""
        if self.sampling == "csv":
            return np.repeat(np.arange(len(self.repeats)), self.repeats)
        return np.flatnonzero(self.repeats)

    def _shuffled(self, ids: Ids, number: int) -> Ids:
        if not self.shuffle:
            return ids
        return ids[random_order(len(ids), self.seed, Purpose.SHUFFLE, number)]

    def _window(self, epoch: int) -> Ids:
        """The epoch's part of the endless row of passes, each of which is shuffled by itself."""
        one_pass = self._one_pass()
        length = len(one_pass)
        if length == 0:
            return one_pass
        start = epoch * self.images_per_epoch
        end = start + self.images_per_epoch
        parts = []
        for number in range(start // length, -(-end // length)):
            offset = number * length
            parts.append(self._shuffled(one_pass, number)[max(start - offset, 0) : end - offset])
        return np.concatenate(parts)

    def _fill_quotas(self, epoch: int) -> Ids:
        """Samples of each class up to its quota, all of them before one repeats; in stored order.

        Where a quota is no multiple of the class, the epoch draws which samples get one use more.
        """
        ids = self._one_pass()
        labels = self.labels[ids]
        bits = random_bits(len(ids), self.seed, Purpose.EXTRA_USES, epoch)
        missing = self._quotas()[labels] - class_ranks(labels, bits)
        uses = -(-missing // np.bincount(labels)[labels])  # rounded up
        return np.repeat(ids, uses)

    def _quotas(self) -> Ids:
        """``(K,)`` images of each class an epoch, exactly ``images_per_epoch`` in all."""
        return apportion(self.images_per_epoch, self._weights())

    def _weights(self) -> npt.NDArray[np.float64]:
        """``(K,)`` what the quotas are in proportion to; 0 for a class without samples."""
        counts = np.bincount(self.labels[self.repeats > 0])
        return np.sqrt(counts) if self.sampling == "sqrt" else np.sign(counts).astype(np.float64)

    def _check_quotas(self) -> None:
        weights = self._weights()
        present = weights > 0
        missing = int((present & (self._quotas() == 0)).sum())
        if missing:
            enough = math.ceil(weights.sum() / weights[present].min())
            raise UserError(
                f"epoch size {self.images_per_epoch} is too small for {self.sampling} sampling: "
                f"{missing} of {present.sum()} classes would have no image; choose {enough} or more"
            )


def apportion(total: int, weights: npt.NDArray[np.float64]) -> Ids:
    """``(K,)`` whole numbers in proportion to the weights, exactly ``total`` in all.

    Largest remainder: shares are rounded down, and what is left goes to those that lost most; of
    equals, to those that come first.
    """
    shares = total * weights / (weights.sum() or 1)
    parts: Ids = np.floor(shares).astype(np.int64)
    left = total - int(parts.sum())
    parts[np.argsort(parts - shares, kind="stable")[:left]] += 1
    return parts
