"""The CPU back end: threads that decode, crop, resize, colour and mirror straight into the batch.

Decoding, resizing and colour all release the interpreter lock, so threads scale without the cost of
worker processes. Decoding is simplejpeg's (libjpeg-turbo through the same pixels as OpenCV and
Pillow, to the last bit); OpenCV does the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from torch.nn.functional import interpolate

from loaders.augment import Transforms, color_matrices
from loaders.batch import Batch
from loaders.config import LoaderConfig, Resample
from loaders.plan import Ids, PlannedBatch
from loaders.planned import PlannedLoader
from shards.errors import ShardError
from shards.machine import allowed_cores
from shards.reader import Split, is_array, view_array

Pixels = npt.NDArray[np.uint8]

CHUNKS_PER_THREAD = 2
"""A batch is cut into so many pieces a thread: few calls, yet no thread idles at its end."""


class OpenCVLoader(PlannedLoader):
    """Batches on the CPU, or copied to a device from pinned memory."""

    name = "opencv"

    def __init__(self, config: LoaderConfig) -> None:
        cv2.setNumThreads(1)  # the threads here are the parallelism
        super().__init__(config)
        self._threads = config.threads or allowed_cores()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="hyphae-decode")
        self._device = torch.device(config.device)

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch]:
        """The batches of an epoch; ``prefetch`` of them are in work ahead of the consumer."""
        ahead: deque[_Pending] = deque()
        planned = self._planned.plan.batches(epoch, first_step)
        try:
            for batch in planned:
                ahead.append(self._start(epoch, batch))
                if len(ahead) > self._config.prefetch:
                    yield self._finish(ahead.popleft())
            while ahead:
                yield self._finish(ahead.popleft())
        finally:
            for pending in ahead:
                for future in pending.futures:
                    future.cancel()
            for pending in ahead:  # nothing may write to a buffer that is being freed
                for future in pending.futures:
                    if not future.cancelled():
                        future.exception()

    def close(self) -> None:
        """End the threads, release the shards."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        super().close()

    def _start(self, epoch: int, batch: PlannedBatch) -> _Pending:
        """Draw the augmentation and hand the batch to the threads."""
        size = self._config.image_size
        # A fresh buffer a batch: a batch that the caller keeps never changes.
        buffer = torch.empty(
            (len(batch.ids), size, size, 3),
            dtype=torch.uint8,
            pin_memory=self._device.type == "cuda",
        )
        transforms = self._planned.transforms(epoch, batch)
        work = _Work(
            split=self._planned.split,
            ids=batch.ids,
            transforms=transforms,
            matrices=None if transforms.colors is None else color_matrices(transforms.colors),
            resample=self._config.resample,
            out=buffer.numpy(),
        )
        pieces = min(len(batch.ids), self._threads * CHUNKS_PER_THREAD)
        bounds = np.linspace(0, len(batch.ids), pieces + 1).astype(int).tolist()
        futures = [self._pool.submit(work.fill, first, last) for first, last in pairwise(bounds)]
        return _Pending(batch, buffer, futures)

    def _finish(self, pending: _Pending) -> Batch:
        for future in pending.futures:
            future.result()
        labels, ids = self._planned.labels_and_ids(pending.batch)
        images = pending.buffer.permute(0, 3, 1, 2)
        if self._device.type == "cpu":
            return Batch(images, labels, ids)
        # From pinned memory the copy runs beside the step that is under way.
        return Batch(
            images.to(self._device, non_blocking=True),
            labels.to(self._device, non_blocking=True),
            ids.to(self._device, non_blocking=True),
        )


@dataclass(frozen=True, slots=True)
class _Pending:
    batch: PlannedBatch
    buffer: torch.Tensor
    futures: list[Future[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """One batch in the making; threads fill disjoint parts of ``out``."""

    split: Split
    ids: Ids
    transforms: Transforms
    matrices: npt.NDArray[np.float32] | None
    resample: Resample
    out: Pixels
    """``(B, S, S, 3)`` RGB."""

    def fill(self, first: int, last: int) -> None:
        """Make the images ``first`` to ``last - 1``."""
        transforms = self.transforms
        crops, sizes, windows = (
            array[first:last].tolist()  # Python ints: cheaper to index than NumPy scalars
            for array in (transforms.crops, transforms.sizes, transforms.windows)
        )
        for at, (crop, size, window) in enumerate(
            zip(crops, sizes, windows, strict=True), start=first
        ):
            image = decode(self.split, int(self.ids[at]))
            top, left, height, width = crop
            region = image[top : top + height, left : left + width]
            apply(
                region,
                size=(size[0], size[1]),
                window=(window[0], window[1]),
                matrix=None if self.matrices is None else self.matrices[at],
                flip=bool(transforms.flips[at]),
                resample=self.resample,
                out=self.out[at],
            )


def decode(split: Split, sample: int) -> Pixels:
    """``(H, W, 3)`` RGB of a stored image; one stored as an array is viewed, not copied.

    Raises:
        ShardError: It does not match its crc32, or does not decode; names shard, key and source.
    """
    payload = split.payload(sample)
    try:
        if is_array(payload):
            return view_array(payload)
        # Not strict: packing was, and the crc32 says that these are the same bytes.
        return np.asarray(simplejpeg.decode_jpeg(payload, colorspace="RGB", strict=False))
    except ValueError as error:
        raise ShardError(f"{split.describe(sample)} does not decode: {error}") from None


def apply(
    region: Pixels,
    *,
    size: tuple[int, int],
    window: tuple[int, int],
    matrix: npt.NDArray[np.float32] | None,
    flip: bool,
    resample: Resample,
    out: Pixels,
) -> None:
    """Resize a region, keep a window of it, colour and mirror it, into ``out``.

    Args:
        region: ``(H, W, 3)`` RGB.
        size: Height and width to resize it to.
        window: Top and left of the part that is kept, which is as large as ``out``.
        matrix: ``(3, 4)`` affine colour map, None for no change.
        flip: Whether to mirror left and right.
        resample: Interpolation.
        out: ``(S, S, 3)`` RGB, written.
    """
    side = out.shape[0]
    whole = size == (side, side)
    last_step = matrix is None and not flip
    image = resize(region, size, resample, out if whole and last_step else None)
    if not whole:
        image = image[window[0] : window[0] + side, window[1] : window[1] + side]
    if matrix is not None:
        image = np.asarray(cv2.transform(image, matrix, dst=None if flip else out), np.uint8)
    if flip:
        cv2.flip(image, 1, dst=out)
    elif image is not out:
        np.copyto(out, image)


def resize(
    region: Pixels, size: tuple[int, int], resample: Resample, out: Pixels | None = None
) -> Pixels:
    """``(size[0], size[1], 3)``, written to ``out`` where that is given."""
    height, width = size
    if region.shape[:2] == size:
        result = region
    elif resample == "antialias":
        # torch's uint8 kernel equals Pillow to 0.002 of 255 on average, and runs single-threaded.
        writable = region if region.flags.writeable else region.copy()  # torch insists
        nchw = torch.from_numpy(writable).permute(2, 0, 1).unsqueeze(0)
        resized = interpolate(nchw, size, mode="bilinear", antialias=True, align_corners=False)
        result = resized[0].permute(1, 2, 0).numpy()
    else:
        return np.asarray(cv2.resize(region, (width, height), dst=out), np.uint8)
    if out is None:
        return result
    np.copyto(out, result)
    return out
