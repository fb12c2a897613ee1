"""Asks the operating system for the samples of coming batches before a thread needs them."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Generator, Iterable

from loaders.draws import Ids
from loaders.plan import PlannedBatch
from loaders.threads import Call, Threads
from shards.format import shard_name
from shards.machine import available_memory
from shards.reader import Split

BATCHES_AHEAD = 4
"""How many batches are announced before their turn to be decoded."""


class ReadAhead:
    """One thread that announces planned samples, so that a slow disk reads while others decode.

    Each is announced once: from then on the page cache has it, unless the set is larger than memory.

    ``posix_fadvise`` rather than ``madvise`` on the map: Python calls the latter with its
    interpreter lock held, and it may wait for a busy disk. Where the system has neither (macOS has
    no ``posix_fadvise``), batches pass as they are.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self._pool = Threads(1, "hyphae-read-ahead")
        self._announced = bytearray(len(split))
        stored = sum(info.bytes for info in split.manifest.splits.values())
        self._fits_in_memory = stored < available_memory()
        self._files: dict[int, int] = {}
        self._release = weakref.finalize(self, _close_all, self._files)
        self._closed = threading.Event()

    def announce(self, batches: Iterable[PlannedBatch]) -> Generator[PlannedBatch]:
        """Pass batches on, each :data:`BATCHES_AHEAD` after it was announced."""
        if not hasattr(os, "posix_fadvise"):
            yield from batches
            return
        waiting: deque[tuple[PlannedBatch, Call[None]]] = deque()
        try:
            for batch in batches:
                waiting.append((batch, self._pool.submit(self._announce, batch.ids)))
                if len(waiting) > BATCHES_AHEAD:
                    yield waiting.popleft()[0]
            while waiting:
                yield waiting.popleft()[0]
        finally:
            for _, call in waiting:
                call.cancel()

    def close(self) -> None:
        """End the thread, close its files."""
        self._closed.set()
        self._pool.close()
        self._release()

    def _announce(self, ids: Ids) -> None:
        for sample in ids.tolist():
            if self._closed.is_set():
                return
            if self._announced[sample] and self._fits_in_memory:
                continue
            self._announced[sample] = True
            shard, offset, size = self._split.place(sample)
            try:
                os.posix_fadvise(self._file(shard), offset, size, os.POSIX_FADV_WILLNEED)
            except OSError:  # only advice; whoever decodes says what is wrong
                return

    def _file(self, shard: int) -> int:
        if shard not in self._files:
            path = self._split.directory / shard_name(self._split.name, shard)
            self._files[shard] = os.open(path, os.O_RDONLY)
        return self._files[shard]


def _close_all(files: dict[int, int]) -> None:
    while files:
        os.close(files.popitem()[1])
