"""The contract between every back end and whoever consumes its batches."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class Batch:
    """Images as bytes: they cross to the device 4x cheaper and are normalised by the model."""

    images: torch.Tensor
    """``(B, 3, H, W)`` uint8 RGB in channels_last memory: an NHWC buffer seen as NCHW."""
    labels: torch.Tensor
    """``(B,)`` int64."""
    ids: torch.Tensor
    """``(B,)`` int64: rows of the split's sample table."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)


class Loader(Protocol):
    """What a back end is: epochs of batches in the order of its plan, each from any step on."""

    name: str
    """The back end, as the user names it."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch, the last short one included unless the plan drops it."""
        ...

    @property
    def samples_per_epoch(self) -> int:
        """Images an epoch over all ranks."""
        ...

    @property
    def order_hash(self) -> str:
        """Two loaders share it exactly if they show the same samples in the same order."""
        ...

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch]:
        """The batches of an epoch from ``first_step`` on; the batches before it are not decoded.

        A batch belongs to the caller and stays unchanged. Closing the iterator (``break`` and
        garbage collection do it too) stops the work begun ahead.
        """
        ...

    def close(self) -> None:
        """End threads and processes, release the shards."""
        ...
