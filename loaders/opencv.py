"""The CPU back end: threads that decode, crop, resize, colour and mirror straight into the batch.

Decoding, resizing and colour all release the interpreter lock, so threads scale without the cost of
worker processes. Batches lie in buffers that are used again, and threads work in memory of their
own, so nothing of an image's size is allocated on the way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import cv2
import numpy as np
import torch

from loaders.augment import ERASE_FILL, Transforms, color_matrices
from loaders.bad_samples import BadSamples
from loaders.batch import Batch
from loaders.buffers import BatchRing, Pixels, Scratch
from loaders.config import LoaderConfig, Resample
from loaders.decode import RegionDecoder, decode
from loaders.pixels import Matrix, apply, prefer_ipp_resize
from loaders.plan import PlannedBatch
from loaders.planned import PlannedLoader
from loaders.readahead import ReadAhead
from loaders.threads import Call, CancelledError, Threads
from shards.machine import allowed_cores
from shards.reader import SampleError

__all__ = ["OpenCVLoader", "decode"]

MAX_PIECE = 16
"""Images that a thread takes at a time, at most: large pieces are handed over less often, small ones
leave fewer threads idle at the end of a batch."""

DRAWN_TOGETHER = 128
"""Images whose augmentation is drawn at once: it takes as long as for 32 (measured)."""

How = tuple[list[int], list[int], list[int], bool, Matrix | None, list[int] | None]
"""What to do with an image: a row of :class:`Transforms` as plain numbers, and its colour map."""


class OpenCVLoader(PlannedLoader):
    """Batches on the CPU, or copied to a device from pinned memory.

    Raises:
        UserError: From the constructor, where the split does not fit the batch.
        ShardError: From the constructor, where the shard set is missing or damaged; from an epoch
            as SampleError, where a sample is damaged or does not decode.
        RuntimeError: From an epoch, where the loader is closed.
    """

    name = "opencv"

    def __init__(self, config: LoaderConfig) -> None:
        cv2.setNumThreads(1)  # the threads here are the parallelism
        super().__init__(config)
        self._device = torch.device(config.device)
        self._threads = config.threads or allowed_cores()
        largest_share = -(-config.batch_size // config.world_size)
        # Enough pieces that every thread has one, whatever the batches in work.
        self._piece = min(MAX_PIECE, max(1, largest_share * config.prefetch // self._threads // 2))
        self._ring = BatchRing(
            largest_share,
            config.image_size,
            keep=config.prefetch + 3,  # in work, handed over, and the one before it
            pinned=self._device.type == "cuda",
        )
        split = self._planned.split
        areas = split.samples["width"].astype(np.int64) * split.samples["height"]
        self._scratch = Scratch(
            int(areas.max()),
            int(split.samples["size"].max()),
            config.image_size,
            padded=config.resample == "linear",
        )
        self._decoder = RegionDecoder(split, self._scratch, reduced=config.reduced_decode)
        self._read_ahead = ReadAhead(split)
        self._pool = Threads(self._threads, "hyphae-decode", initializer=prefer_ipp_resize)
        self._closed = False

    def epoch(
        self, epoch: int, first_step: int = 0, image_size: int | None = None
    ) -> Generator[Batch]:
        """The batches of an epoch; ``prefetch`` of them are in work ahead of the consumer."""
        self._check_open()
        side = self.side(image_size)
        ahead: deque[_Pending] = deque()
        planned = self._planned.plan.batches(epoch, first_step)
        try:
            with closing(self._read_ahead.announce(planned)) as announced:
                for batch, hows in self._drawn(epoch, announced, side):
                    ahead.append(self._start(epoch, batch, hows, side))
                    if len(ahead) > self._config.prefetch:
                        yield self._finish(ahead.popleft())
                while ahead:
                    yield self._finish(ahead.popleft())
        finally:
            # Pieces under way end by themselves: each holds the buffer that it writes to. Waiting
            # for them here could be in one of their own threads, if that collects the garbage.
            for pending in ahead:
                for piece in pending.pieces:
                    piece.cancel()

    def close(self) -> None:
        """End the threads, release the shards; an epoch that is still open raises."""
        self._closed = True
        self._pool.close()
        self._read_ahead.close()
        self._ring.clear()
        super().close()

    def _drawn(
        self, epoch: int, batches: Iterable[PlannedBatch], side: int
    ) -> Iterator[tuple[PlannedBatch, list[How]]]:
        """Each batch with what to do to its images."""
        for neighbours in in_neighbourhoods(batches, DRAWN_TOGETHER):
            joined = replace(neighbours[0], ids=np.concatenate([batch.ids for batch in neighbours]))
            hows = iter(instructions(self._planned.transforms(epoch, joined, side)))
            for batch in neighbours:
                yield batch, list(islice(hows, len(batch.ids)))

    def _start(self, epoch: int, batch: PlannedBatch, hows: list[How], side: int) -> _Pending:
        """Hand a batch to the threads."""
        self._check_open()
        batch = replace(batch, ids=batch.ids.copy())  # those of bad samples are replaced
        buffer = self._ring.take(len(batch.ids), side)
        work = _Work(
            epoch=epoch,
            batch=batch,
            hows=hows,
            decoder=self._decoder,
            scratch=self._scratch,
            resample=self._config.resample,
            bad=self._bad,
            out=buffer.numpy(),
        )
        pieces = [
            self._pool.submit(work.fill, first, min(first + self._piece, len(batch.ids)))
            for first in range(0, len(batch.ids), self._piece)
        ]
        return _Pending(batch, buffer, pieces)

    def _finish(self, pending: _Pending) -> Batch:
        self._check_open()
        try:
            for piece in reversed(pending.pieces):  # the last to end: one wait for all of them
                piece.result()
        except CancelledError:
            self._check_open()
            raise
        labels, ids = self._planned.labels_and_ids(pending.batch)
        return Batch(pending.buffer.permute(0, 3, 1, 2), labels, ids).on(self._device)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the opencv loader was closed while one of its epochs was open")


@dataclass(frozen=True, slots=True)
class _Pending:
    batch: PlannedBatch
    buffer: torch.Tensor
    pieces: list[Call[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One batch in the making; threads fill disjoint parts of ``out`` and of the batch's ids."""

    epoch: int
    batch: PlannedBatch
    hows: list[How]
    decoder: RegionDecoder
    scratch: Scratch
    resample: Resample
    bad: BadSamples
    out: Pixels
    """``(B, S, S, 3)`` RGB."""

    def fill(self, first: int, last: int) -> None:
        """Make the images ``first`` to ``last - 1``."""
        ids = self.batch.ids
        for at, sample in enumerate(ids[first:last].tolist(), start=first):
            try:
                self._make(at, sample, self.hows[at])
            except SampleError as error:
                position = self.batch.first_position + at
                make = partial(self._make_instead, at)
                side = self.out.shape[1]
                ids[at], _ = self.bad.replace(self.epoch, position, sample, error, make, side)

    def _make(self, at: int, sample: int, how: How) -> None:
        crop, size, window, flip, matrix, erasure = how
        region = self.decoder.region(sample, crop, size)
        apply(
            region,
            size=size,
            window=window,
            matrix=matrix,
            flip=flip,
            resample=self.resample,
            out=self.out[at],
            scratch=self.scratch,
        )
        if erasure is not None:
            top, left, height, width = erasure
            self.out[at, top : top + height, left : left + width] = ERASE_FILL

    def _make_instead(self, at: int, sample: int, transforms: Transforms) -> None:
        self._make(at, sample, instructions(transforms)[0])


def in_neighbourhoods(batches: Iterable[PlannedBatch], images: int) -> Iterator[list[PlannedBatch]]:
    """Runs of batches that follow each other without a gap, each of at most so many images or one.

    With several ranks there are gaps, and each batch is a run of its own.
    """
    run: list[PlannedBatch] = []
    end = count = 0
    for batch in batches:
        if run and (batch.first_position != end or count + len(batch.ids) > images):
            yield run
            run, count = [], 0
        run.append(batch)
        count += len(batch.ids)
        end = batch.first_position + len(batch.ids)
    if run:
        yield run


def instructions(transforms: Transforms) -> list[How]:
    """What to do with each image, in Python's own numbers: cheaper to read than NumPy's."""
    colors, erasures = transforms.colors, transforms.erasures
    nothing = [None] * len(transforms)
    return list(
        zip(
            transforms.crops.tolist(),
            transforms.sizes.tolist(),
            transforms.windows.tolist(),
            transforms.flips.tolist(),
            nothing if colors is None else color_matrices(colors),
            nothing if erasures is None else erasures.tolist(),
            strict=True,
        )
    )
