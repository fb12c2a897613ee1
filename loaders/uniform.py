"""Uniform numbers by position: the same for a sample wherever its batch begins, on any rank.

The generator counts (Philox): seed, stream and epoch are its key, the position in the epoch is its
counter. Only raw bits are taken from it, as NumPy promises no other stream across versions. What
the numbers of a position are for::

    IMAGE  0-9 crop area   10-19 crop ratio   20, 21 crop top, left   22 flip
           23-26 brightness, contrast, saturation, hue   27 greyscale   28-31 free
    ERASE  0 whether   1 area   2 ratio   3, 4 top, left   5-7 free
    MIX    0 which kind   1 lambda   2, 3 row and column of the box's centre
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

DRAWS_PER_COUNTER = 4
"""64-bit words that Philox yields a counter value."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A part of the draws, kept apart from the others, so that switching it on moves none of them."""

    key: int
    """High half of the second key word; 0 and 2 to 5 are those of :mod:`loaders.draws`."""
    draws: int
    """Numbers of a position, a multiple of :data:`DRAWS_PER_COUNTER`."""


IMAGE, ERASE, MIX = Stream(1, 32), Stream(6, 8), Stream(7, 4)


def uniform(stream: Stream, *, seed: int, epoch: int, first_position: int, count: int) -> Floats:
    """``(count, stream.draws)`` in [0, 1), multiples of 2**-53; row ``i`` is ``first + i``'s."""
    counter = first_position * (stream.draws // DRAWS_PER_COUNTER)
    generator = np.random.Philox(key=[seed, (stream.key << 32) + epoch], counter=[counter, 0, 0, 0])
    raw = generator.random_raw(count * stream.draws).reshape(count, stream.draws)
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53)


def between(bounds: tuple[float, float], draws: Floats) -> Floats:
    """Uniform numbers in [0, 1) stretched to ``bounds``."""
    return bounds[0] + (bounds[1] - bounds[0]) * draws


def log_between(bounds: tuple[float, float], draws: Floats) -> Floats:
    """Log-uniform numbers in ``bounds``, so that a ratio and its inverse are as likely."""
    low, high = np.log(bounds)
    return np.exp(between((low, high), draws))
