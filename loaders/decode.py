"""Stored bytes -> the region of an image that is used; of the other rows, as few as can be.

simplejpeg's libjpeg-turbo gives the same pixels as OpenCV's and Pillow's, to the last bit. What lies
below a region is neither decoded nor missed, nor what lies above it where the JPEG can be entered
there (:mod:`loaders.jpeg_rows`).
"""

from __future__ import annotations

from array import array

import numpy as np
import simplejpeg

from loaders.buffers import Pixels, Scratch
from loaders.jpeg_rows import CONTEXT_ROWS, JpegRows, copy_rows, find_rows
from shards.reader import SampleError, Split, is_array, view_array

FACTORS = (8, 4, 2)
"""By which libjpeg can shrink while it decodes, at a fraction of the cost."""


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
        # Of each sample whose bytes have been looked at; None where it is decoded whole.
        self._rows: dict[int, JpegRows | None] = {}

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
                image, begin = self._decode(payload, sample, top, top + height, factor)
                top -= begin
                if factor > 1:
                    top, left, height, width = (
                        each // factor for each in (top, left, height, width)
                    )
        except ValueError as error:
            raise undecodable(self._split, sample, error) from None
        return image[top : top + height, left : left + width]

    def _factor(self, height: int, width: int, size: list[int]) -> int:
        for factor in self._factors:
            if height >= factor * size[0] and width >= factor * size[1]:
                return factor
        return 1

    def _decode(
        self, payload: memoryview, sample: int, top: int, bottom: int, factor: int
    ) -> tuple[Pixels, int]:
        """All columns of the rows from ``top`` to ``bottom``, and the row that it begins with."""
        scratch = self._scratch
        begin, height = 0, self._heights[sample]
        if bottom - top < height:
            rows = self._layout(payload, sample)
            if rows is not None:
                payload, begin, height = copy_rows(
                    payload, rows, top, bottom, scratch.stored, context=CONTEXT_ROWS * factor
                )
        image: Pixels = simplejpeg.decode_jpeg(
            payload,
            "RGBX" if scratch.padded else "RGB",
            min_height=-(-height // factor),
            min_width=-(-self._widths[sample] // factor),
            min_factor=factor,
            buffer=scratch.decoded,
            # Packing was strict, the crc32 says that these are the same bytes, and what follows
            # the last row that is wanted counts as garbage.
            strict=False,
        )
        return image, begin

    def _layout(self, payload: memoryview, sample: int) -> JpegRows | None:
        try:
            return self._rows[sample]
        except KeyError:
            rows = self._rows[sample] = find_rows(payload, self._heights[sample])
            return rows


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
