"""Stored bytes -> the region of an image that is used, decoded no further than its last row.

simplejpeg's libjpeg-turbo gives the same pixels as OpenCV's and Pillow's, to the last bit. A
baseline JPEG is coded from top to bottom and states its height once, so a copy that states a
smaller one is decoded down to there and no further, with the same pixels. A random crop ends above
the last row more often than not; what lies below it is neither decoded nor missed.
"""

from __future__ import annotations

from array import array

import numpy as np
import simplejpeg

from loaders.buffers import Pixels, Scratch
from shards.reader import SampleError, Split, is_array, view_array

CONTEXT_ROWS = 2
"""Rows of chroma are interpolated from their neighbours: two more of them leave a row exact."""
FACTORS = (8, 4, 2)
"""By which libjpeg can shrink while it decodes, at a fraction of the cost."""
FRAME_MARKERS = (0xC0, 0xC1)
"""Sequential Huffman frames: one pass from top to bottom (ITU-T T.81, table B.1)."""
SCAN_MARKER = 0xDA


class RegionDecoder:
    """Regions of a split's images, for any number of threads.

    Args:
        split: Where the stored bytes are.
        scratch: What to decode into.
        reduced: Whether to shrink while decoding where a region stays as large as it is needed.
    """

    def __init__(self, split: Split, scratch: Scratch, *, reduced: bool = False) -> None:
        self._split = split
        self._scratch = scratch
        self._factors = FACTORS if reduced else ()
        self._widths, self._heights = (
            array("q", split.samples[field].astype(np.int64).tobytes())
            for field in ("width", "height")
        )
        # Where the header of each sample states its height: 0 not looked up, -1 nowhere.
        self._stated_at = array("q", bytes(8 * len(split)))

    def region(self, sample: int, crop: list[int], size: list[int]) -> Pixels:
        """``(h, w, 3)`` RGB: a view, good until this thread's next call.

        With padded scratch, a JPEG's is ``(h, w, 4)``, of which the last means nothing.

        Args:
            sample: Its id.
            crop: Top, left, height, width.
            size: Height and width to which the caller will resize it.

        Raises:
            SampleError: It does not match its crc32, or does not decode; names shard, key, source.
        """
        payload = self._split.payload(sample)
        top, left, height, width = crop
        try:
            if is_array(payload):
                image = view_array(payload)
            else:
                factor = self._factor(height, width, size)
                image = self._decode(payload, sample, top + height, factor)
                if factor > 1:
                    top, left, height, width = (each // factor for each in crop)
        except ValueError as error:
            raise undecodable(self._split, sample, error) from None
        return image[top : top + height, left : left + width]

    def _factor(self, height: int, width: int, size: list[int]) -> int:
        for factor in self._factors:
            if height >= factor * size[0] and width >= factor * size[1]:
                return factor
        return 1

    def _decode(self, payload: memoryview, sample: int, bottom: int, factor: int) -> Pixels:
        """All columns of the rows above ``bottom``, and some below it."""
        scratch = self._scratch
        rows = bottom + CONTEXT_ROWS * factor
        if rows >= self._heights[sample]:
            rows = self._heights[sample]
        elif (at := self._height_stated_at(payload, sample)) > 0:
            copy = scratch.stored[: len(payload)]
            copy[:] = payload
            copy[at], copy[at + 1] = rows >> 8, rows & 0xFF
            payload = copy
        else:
            rows = self._heights[sample]
        image: Pixels = simplejpeg.decode_jpeg(
            payload,
            "RGBX" if scratch.padded else "RGB",
            min_height=-(-rows // factor),
            min_width=-(-self._widths[sample] // factor),
            min_factor=factor,
            buffer=scratch.decoded,
            # Packing was strict, the crc32 says that these are the same bytes, and what follows
            # the last row that is wanted counts as garbage.
            strict=False,
        )
        return image

    def _height_stated_at(self, payload: memoryview, sample: int) -> int:
        at = self._stated_at[sample]
        if at == 0:
            at = self._stated_at[sample] = height_stated_at(payload, self._heights[sample])
        return at


def decode(split: Split, sample: int) -> Pixels:
    """``(H, W, 3)`` RGB of a whole stored image; one stored as an array is viewed, not copied.

    Raises:
        SampleError: It does not match its crc32, or does not decode; names shard, key and source.
    """
    payload = split.payload(sample)
    try:
        if is_array(payload):
            return view_array(payload)
        return np.asarray(simplejpeg.decode_jpeg(payload, "RGB", strict=False))
    except ValueError as error:
        raise undecodable(split, sample, error) from None


def undecodable(split: Split, sample: int, error: Exception) -> SampleError:
    """What to raise for a sample that a decoder refused."""
    return SampleError(f"{split.describe(sample)} does not decode: {error}")


def height_stated_at(payload: memoryview, height: int) -> int:
    """Position of the two bytes that state a sequential JPEG's height; -1 if they do not."""
    at = 2
    while at + 7 <= len(payload) and payload[at] == 0xFF and payload[at + 1] != SCAN_MARKER:
        if payload[at + 1] in FRAME_MARKERS:  # marker, length, precision, height
            stated = payload[at + 5] << 8 | payload[at + 6]
            return at + 5 if stated == height else -1
        if payload[at + 1] == 0xFF:  # a fill byte
            at += 1
        else:
            at += 2 + (payload[at + 2] << 8 | payload[at + 3])
    return -1
