"""Memory that is used again: a ring of batch buffers, and each decoding thread's scratch."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from contextlib import suppress

import numpy as np
import numpy.typing as npt
import torch

Pixels = npt.NDArray[np.uint8]


class BatchRing:
    """Buffers of ``(B, S, S, 3)`` bytes, S up to ``side``; each comes back when nothing holds it.

    The holder may be the batch, a view or slice of its images, or an array that shares their
    memory: a tensor keeps the array that it was made from, and that array's end is what returns
    the memory. So a batch belongs to its consumer for as long as it is kept, and a consumer that
    keeps none is served from the same few buffers, without page faults.

    Pinned memory comes from torch's own pinned allocator. It is such a ring already, and it knows
    which copies to the device still read a buffer.
    """

    def __init__(self, batch: int, side: int, *, keep: int, pinned: bool) -> None:
        """``keep`` buffers wait for their next use at most; more that came back are freed."""
        self._bytes = batch * side * side * 3
        self._pinned = pinned
        # That a lent buffer came back is looked up, not told by a finalizer: Python drops what is
        # raised in one, and Ctrl-C may be. Every step below is atomic, for consumers in threads.
        self._lent: deque[tuple[weakref.ref[Pixels], Pixels]] = deque()
        self._free: deque[Pixels] = deque(maxlen=keep)

    def take(self, count: int, side: int) -> torch.Tensor:
        """``(count, side, side, 3)`` uint8 on the CPU, not initialised; no larger than a buffer."""
        shape = (count, side, side, 3)
        if self._pinned:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self._collect()
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = np.empty(self._bytes, np.uint8)
        lent = buffer[: count * side * side * 3].reshape(shape)
        self._lent.append((weakref.ref(lent), buffer))
        return torch.from_numpy(lent)

    def clear(self) -> None:
        """Free the buffers that nobody holds."""
        self._collect()
        self._free.clear()

    def _collect(self) -> None:
        """Move what nobody holds any more to the free buffers."""
        with suppress(IndexError):  # another thread took the last one
            for _ in range(len(self._lent)):
                lent, buffer = self._lent.popleft()
                if lent() is None:
                    self._free.append(buffer)
                else:
                    self._lent.append((lent, buffer))


class Scratch(threading.local):
    """What a thread works in between the stored bytes and the batch; one of each kind a thread."""

    def __init__(self, pixels: int, stored: int, side: int, *, padded: bool = False) -> None:
        """Room for an image of so many pixels, for so many stored bytes, and for results.

        Results are squares of at most ``side``. ``padded`` asks for JPEGs to be decoded to four
        bytes a pixel.
        """
        self.padded = padded
        self.decoded = np.empty((4 if padded else 3) * pixels, np.uint8)
        self.stored = memoryview(bytearray(stored))
        self._rooms = [np.empty(side * side * channels, np.uint8) for channels in (4, 3, 3)]
        self._side = 0
        self.fit(side)

    def fit(self, side: int) -> None:
        """Let the rooms for results be of this side; OpenCV writes to no others."""
        if side == self._side:
            return
        self._side = side
        self.resized_padded, self.resized, self.mirrored = (
            room[: side * side * channels].reshape(side, side, channels)
            for room, channels in zip(self._rooms, (4, 3, 3), strict=True)
        )
