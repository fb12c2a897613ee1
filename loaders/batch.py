"""The contract between every back end and whoever consumes its batches."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from loaders.draws import Ids
from loaders.span import Span


@dataclass(frozen=True, slots=True)
class Batch:
    """Images as bytes: they cross to the device 4x cheaper and are normalised by the model."""

    images: torch.Tensor
    """``(B, 3, H, W)`` uint8 RGB in channels_last memory: an NHWC buffer seen as NCHW."""
    labels: torch.Tensor
    """``(B,)`` int64."""
    ids: torch.Tensor
    """``(B,)`` int64: rows of the split's sample table."""
    copy: Span | None = None
    """Its way from the CPU to the device; None where it was made there."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def on(self, device: torch.device) -> Batch:
        """The batch on a device, where it is not there.

        From pinned memory the copy to a CUDA device runs beside the step that is under way;
        elsewhere it is over before this returns, as the memory may be used again.
        """
        if device.type == self.images.device.type == "cpu":
            return self
        beside = device.type == "cuda"
        with Span(device) as copy:
            images, labels, ids = (
                each.to(device, non_blocking=beside)
                for each in (self.images, self.labels, self.ids)
            )
        return Batch(images, labels, ids, copy)


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

    @property
    def class_counts(self) -> Ids:
        """``(K,)`` images of each class of the shard set that a pass or an epoch shows."""
        ...

    @property
    def bad_samples(self) -> Mapping[int, str]:
        """Samples that were damaged or did not decode and were skipped so far: id -> reason."""
        ...

    def epoch(
        self, epoch: int, first_step: int = 0, image_size: int | None = None
    ) -> Generator[Batch]:
        """The batches of an epoch from ``first_step`` on; the batches before it are not decoded.

        DALI's sequential reading alone decodes them, and drops them. Training images may come
        smaller than the loader was opened for: ``image_size`` is their side [px], and no buffer,
        thread or pipeline is made anew for it.

        A batch belongs to the caller and stays unchanged for as long as any tensor or array that
        shares its memory lives; then its memory may serve a later batch. Closing the iterator
        (``break`` and garbage collection do it too) stops the work begun ahead.

        Raises:
            SampleError: A sample is damaged or does not decode, and may not be skipped.
            JobError: A worker process of the loader died.
        """
        ...

    def close(self) -> None:
        """End threads and processes, release the shards."""
        ...
