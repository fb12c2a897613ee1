"""Random bits by address: what is drawn depends on a seed, a purpose and a number alone.

NumPy promises the stream of a bit generator, so that orders made by sorting its words are the same in
every version, which ``Generator.permutation`` does not promise.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]


class Purpose(IntEnum):
    """Keeps draws apart; 1, 6 and 7 are those of :mod:`loaders.uniform`."""

    SHUFFLE = 0
    EXTRA_USES = 2
    SUBSET = 3
    LONG_TAIL = 4
    FOLDS = 5


def random_bits(count: int, seed: int, purpose: Purpose, number: int = 0) -> Bits:
    """``(count,)`` 64-bit words, from Philox with the key (seed, purpose and number).

    A longer draw begins with a shorter one of the same address.

    Args:
        count: How many.
        seed: From 0 to 2**63 - 1.
        purpose: What they are for.
        number: Of the epoch or pass, below 2**32.
    """
    return np.random.Philox(key=[seed, (purpose << 32) + number]).random_raw(count)


def random_order(count: int, seed: int, purpose: Purpose, number: int = 0) -> Ids:
    """``(count,)`` a random permutation of 0 to count - 1.

    Positions take the place of the low bits of the words: a plain sort then carries them along,
    faster than ``argsort``, and no two are equal.
    """
    low = np.uint64(max(count - 1, 0).bit_length())
    words = random_bits(count, seed, purpose, number) >> low << low
    words |= np.arange(count, dtype=np.uint64)
    words.sort()
    words &= (np.uint64(1) << low) - np.uint64(1)
    return words.view(np.int64)


def class_ranks(labels: Ids, bits: Bits) -> Ids:
    """``(M,)`` place of each sample, from 0, when its class is sorted by the bits.

    Args:
        labels: ``(M,)`` class of each sample.
        bits: ``(M,)`` drawn for each sample.
    """
    order = np.lexsort((bits, labels))
    counts = np.bincount(labels)
    first = np.cumsum(counts) - counts
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - first[labels[order]]
    return ranks
