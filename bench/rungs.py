"""The lower rungs of the ladder: reading, decoding and augmenting, each without what comes after.

They do for an image what the ``opencv`` loader does, up to one stage and no further: the same
photographs with the same crops, by as many threads, without batches and without handing over.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bench.timing import Subject
from loaders.buffers import Pixels, Scratch
from loaders.config import LoaderConfig
from loaders.decode import RegionDecoder
from loaders.opencv import instructions
from loaders.pixels import apply, prefer_ipp_resize
from loaders.plan import PlannedBatch
from loaders.planned import PlannedSplit
from shards.format import shard_name
from shards.machine import allowed_cores

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

COLD, WARM, DECODE, AUGMENT = "read, cold", "read, warm", "decode", "augment"
EPOCH = 1
"""Whose first images all rungs show."""
IMAGES = 4096
"""At most so many different ones: a second's worth of the fastest back ends."""
COLD_IMAGES = 256
"""Read from the disk in a block; what is dropped from memory is what the next block reads."""
PAGE = os.sysconf("SC_PAGE_SIZE")


class BareRungs:
    """Threads that do the first stages of loading for the images of one epoch; a context manager.

    Args:
        config: Of the ``opencv`` loader.

    Raises:
        ShardError: The shard set is missing or damaged.
    """

    def __init__(self, config: LoaderConfig) -> None:
        cv2.setNumThreads(1)  # the threads here are the parallelism
        self._config = config
        self._planned = PlannedSplit(config)
        self._split = self._planned.split
        self._ids = self._planned.plan.order(EPOCH)[:IMAGES]
        batch = PlannedBatch(step=0, first_position=0, ids=self._ids)
        self._hows = instructions(self._planned.transforms(EPOCH, batch))
        samples = self._split.samples
        self._scratch = Scratch(
            int((samples["width"].astype(np.int64) * samples["height"]).max()),
            int(samples["size"].max()),
            config.image_size,
            padded=config.resample == "linear",
        )
        self._decoder = RegionDecoder(self._split, self._scratch, reduced=config.reduced_decode)
        self._out = _Out(config.image_size)
        self._threads = config.threads or allowed_cores()
        self._pool = ThreadPoolExecutor(self._threads, initializer=prefer_ipp_resize)

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the threads, release the shards."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._planned.close()

    def warm_subjects(self, min_s: float) -> list[Subject]:
        """Reading from memory, then decoding as well, then augmenting as well."""
        for sample in self._ids.tolist():
            self._split.payload(sample)[:].tobytes()
        stages = {WARM: self._read, DECODE: self._decode, AUGMENT: self._augment}
        return [
            Subject(name, lambda repeat, work=work: self._rate(work, min_s))  # type: ignore[misc]
            for name, work in stages.items()
        ]

    def cold_rate(self, repeat: int) -> float | None:
        """Images a second of reading from the disk in the planned order.

        To be asked before anything maps the shards, as what is mapped cannot be dropped from memory.

        Returns:
            None where the system does not drop them from memory, or does not say whether it did.
        """
        if not hasattr(os, "posix_fadvise") or not hasattr(os, "RWF_NOWAIT"):
            return None
        first = repeat * COLD_IMAGES % len(self._ids)
        samples = dict.fromkeys(np.roll(self._ids, -first)[:COLD_IMAGES].tolist())
        places = [self._split.place(each) for each in samples]
        files: dict[int, int] = {}
        try:
            for shard in {place[0] for place in places}:
                path = self._split.directory / shard_name(self._split.name, shard)
                files[shard] = os.open(path, os.O_RDONLY)
            for shard, *place in places:
                _drop(files[shard], *place)
            shard, offset, _ = places.pop()  # asking starts to read it
            if not places or _in_memory(files[shard], offset):
                return None
            start = time.perf_counter()
            reads = self._pool.map(
                lambda place: len(os.pread(files[place[0]], place[2], place[1])), places
            )
            assert sum(reads) == sum(size for *_, size in places)
            return len(places) / (time.perf_counter() - start)
        finally:
            for file in files.values():
                os.close(file)

    def _rate(self, work: Callable[[int], object], min_s: float) -> float:
        """Images a second of all threads; each takes its share of the positions, again and again."""
        start = time.perf_counter()
        stop = start + min_s

        def run(first: int) -> int:
            done = 0
            while True:
                for position in range(first % len(self._ids), len(self._ids), self._threads):
                    work(position)
                    done += 1
                    if time.perf_counter() >= stop:
                        return done

        done = sum(self._pool.map(run, range(self._threads)))
        return done / (time.perf_counter() - start)

    def _read(self, position: int) -> object:
        return np.frombuffer(self._split.payload(int(self._ids[position])), np.uint8).copy()

    def _decode(self, position: int) -> Pixels:
        crop, size, *_ = self._hows[position]
        region = self._decoder.region(int(self._ids[position]), crop, size)
        if region.base is not None and not region.flags.writeable:
            region = region.copy()  # stored pixels: a view of the shard, which nobody has read yet
        return region

    def _augment(self, position: int) -> None:
        crop, size, window, flip, matrix, _ = self._hows[position]
        apply(
            self._decoder.region(int(self._ids[position]), crop, size),
            size=size,
            window=window,
            matrix=matrix,
            flip=flip,
            resample=self._config.resample,
            out=self._out.image,
            scratch=self._scratch,
        )


class _Out(threading.local):
    """Where a thread leaves an image that nobody looks at."""

    def __init__(self, side: int) -> None:
        self.image = np.empty((side, side, 3), np.uint8)


def _drop(file: int, offset: int, size: int) -> None:
    """Make the system forget a part of a file."""
    first = offset // PAGE * PAGE
    os.fdatasync(file)  # what is not on the disk yet cannot be dropped
    os.posix_fadvise(
        file, first, -(-(offset + size - first) // PAGE) * PAGE, os.POSIX_FADV_DONTNEED
    )


def _in_memory(file: int, offset: int) -> bool:
    """Whether that byte of a file needs no disk; yes where the file system does not tell."""
    try:
        os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT)
    except OSError as error:
        return error.errno != errno.EAGAIN
    return True
