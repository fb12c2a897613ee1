"""The first batches of a loader, for ``--overfit-batches`` and ``--fast-dev-run``."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from itertools import islice

from loaders.batch import Batch, Loader


class FewBatches:
    """The first batches of epoch 0 as a loader of its own: each epoch shows the very same pixels."""

    def __init__(self, loader: Loader, count: int, batch_size: int) -> None:
        """Take over a loader.

        Args:
            loader: Closed together with this one.
            count: Batches to show, or as many as there are.
            batch_size: Of the loader, over all ranks.
        """
        self.name = loader.name
        self._loader, self._count, self._batch_size = loader, count, batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Batches shown."""
        return min(self._count, self._loader.steps_per_epoch)

    @property
    def samples_per_epoch(self) -> int:
        """Images shown."""
        return min(self._count * self._batch_size, self._loader.samples_per_epoch)

    @property
    def order_hash(self) -> str:
        """That of the loader, and how much of it is used."""
        return f"{self._loader.order_hash}-first-{self._count}"

    @property
    def bad_samples(self) -> Mapping[int, str]:
        """The loader's."""
        return self._loader.bad_samples

    def epoch(
        self, epoch: int, first_step: int = 0, image_size: int | None = None
    ) -> Generator[Batch]:
        """The batches from ``first_step`` on, whatever the epoch."""
        with closing(self._loader.epoch(0, first_step, image_size)) as batches:
            yield from islice(batches, self._count - first_step)

    def close(self) -> None:
        """Close the loader."""
        self._loader.close()
