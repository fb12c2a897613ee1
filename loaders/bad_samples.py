"""What stands in for a sample that is damaged or does not decode, where training may go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import click
import numpy as np

from loaders.augment import Transforms
from loaders.draws import Ids
from loaders.plan import Plan, PlannedBatch
from shards.errors import ShardError
from shards.reader import SampleError

Made = TypeVar("Made")


@dataclass(kw_only=True)
class BadSamples:
    """The bad samples that a loader has met, and their replacement. Thread-safe.

    A bad sample at a position of an epoch is replaced by the sample planned for the next position
    that is not bad itself; after the last position comes the first. It brings its own label and id,
    and is augmented as the draws of the position it fills say. So the replacement depends on the
    plan and on which samples are bad, never on threads, ranks or where a run was resumed.
    """

    skips: bool
    """Whether bad samples are replaced, rather than raised."""
    plan: Plan
    transforms: Callable[[int, PlannedBatch, int | None], Transforms]
    """Of a batch in an epoch, at an image size."""
    warn: bool = True
    """Whether each new one is told to the user."""
    messages: dict[int, str] = field(default_factory=dict)
    """Why each is bad, by sample id, in the order in which they were met."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _order: tuple[int, Ids] | None = None

    def replace(
        self,
        epoch: int,
        position: int,
        sample: int,
        error: SampleError,
        make: Callable[[int, Transforms], Made],
        image_size: int | None = None,
    ) -> tuple[int, Made]:
        """Make the image of a position from another sample than the bad one.

        Args:
            epoch: Which epoch.
            position: Place of the bad sample in the epoch's order.
            sample: The bad one's id.
            error: What is wrong with it.
            make: Makes an image from a sample and transforms (of one row); raises SampleError.
            image_size: Of the epoch [px], where it is not the loader's.

        Returns:
            Id of the sample that was taken, and what ``make`` made of it.

        Raises:
            SampleError: ``error``, where nothing may be skipped.
            ShardError: No sample of the epoch is whole.
        """
        if not self.skips:
            raise error
        self.note(sample, error.message)
        for other in self._planned_after(epoch, position):
            if other in self.messages:
                continue
            batch = PlannedBatch(-1, position, np.array([other]))
            try:
                return other, make(other, self.transforms(epoch, batch, image_size))
            except SampleError as another:
                self.note(other, another.message)
        raise ShardError(f"no sample of the epoch is whole; the first bad one: {error.message}")

    def note(self, sample: int, message: str) -> None:
        """Count a bad sample, and warn where it is new."""
        with self._lock:
            new = sample not in self.messages
            self.messages.setdefault(sample, message)
        if new and self.warn:
            click.echo(f"warning: skipped: {message}", err=True)

    def _planned_after(self, epoch: int, position: int) -> Iterator[int]:
        kept = self._order
        if kept is None or kept[0] != epoch:
            kept = self._order = epoch, self.plan.order(epoch)
        order = kept[1]
        for part in (order[position + 1 :], order[:position]):
            yield from map(int, part)
