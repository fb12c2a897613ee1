"""Which part of an epoch each rank reads, where shards are read from end to end.

The epoch's shards in shuffled order, end to end, are one row of samples, and each rank takes its
part of that row, to the sample. Twenty samples in three shards, two ranks::

    shard       2 2 2 2 2 2 2 2  0 0 0 0 0 0 0 0  1 1 1 1
    rank        0 0 0 0 0 0 0 0  0 0 1 1 1 1 1 1  1 1 1 1

So every sample is shown once an epoch and all ranks have as many steps; a shard on a border is read
by both of its ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from loaders.config import LoaderConfig
from loaders.draws import Ids, Purpose, random_order
from loaders.plan import Plan
from shards.errors import UserError
from shards.reader import Split


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Which part of an epoch's shards a rank reads, in which order and batches."""

    split: Split
    plan: Plan
    """Its sizes; its order is another one."""

    def order(self, epoch: int) -> Ids:
        """``(images_per_epoch,)`` ids in the order in which all ranks' parts, end to end, pass."""
        ids = np.flatnonzero(self.plan.repeats)
        if not self.plan.shuffle:
            return ids
        shards = self.split.samples["shard"][ids]
        turns = random_order(int(shards.max()) + 1, self.plan.seed, Purpose.SHUFFLE, epoch)
        return ids[np.argsort(turns[shards], kind="stable")]

    @property
    def first_position(self) -> int:
        """Place in the epoch of this rank's first sample; the draws of augmentation go by it."""
        return self._start(self.plan.rank)

    def part(self, epoch: int) -> Ids:
        """This rank's samples, in the order in which their shards come."""
        return self.order(epoch)[self._start(self.plan.rank) : self._start(self.plan.rank + 1)]

    def shares(self) -> Iterator[int]:
        """Images of this rank in each global batch, the last short one included."""
        batch, rank, ranks = self.plan.batch_size, self.plan.rank, self.plan.world_size
        for step in range(self.plan.steps_per_epoch):
            count = min(batch, len(self.plan) - step * batch)
            yield count * (rank + 1) // ranks - count * rank // ranks

    def shards_of(self, part: Ids) -> list[int]:
        """The shards that hold the samples of a part, in its order."""
        return list(dict.fromkeys(self.split.samples["shard"][part].tolist()))

    def _start(self, rank: int) -> int:
        """Where a rank's part begins: what the shares of the ranks before it add up to."""
        batch, ranks = self.plan.batch_size, self.plan.world_size
        whole, rest = divmod(len(self.plan), batch)
        return whole * (batch * rank // ranks) + rest * rank // ranks


def check_natural(config: LoaderConfig, what: str) -> None:
    """Refuse what a sequential reader cannot do.

    Raises:
        UserError: Samples would repeat or be skipped in place.
    """
    if config.sampling != "natural" or config.epoch_size is not None:
        size = "" if config.epoch_size is None else f" and epoch size {config.epoch_size}"
        raise UserError(
            f"{what} shows each photograph once an epoch, not sampling {config.sampling}{size}; use "
            "--sampling natural without --epoch-size, or pack or copy the shards to a local disk"
        )
    if config.on_bad_sample != "error":
        raise UserError(
            f"{what} cannot replace a bad sample by the next planned one; use --loader opencv, or "
            "let bad samples raise"
        )
