"""What a JPEG says of itself before its first scan: colour space, process, orientation, quality."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import simplejpeg
from PIL import Image

from preprocess.rejected import RejectedImage, damaged_jpeg, too_large

FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers that start a frame, whatever its process (ITU-T T.81, table B.1)."""
_segment_start = struct.Struct(">BBH").unpack_from  # 0xFF, marker, length
_frame_start = struct.Struct(">BHH").unpack_from  # bits, height, width
PASSABLE_SUBSAMPLING = ("444", "422", "420", "440")

# The luminance table of the JPEG standard (ITU-T T.81, table K.1), at which quality is 50.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


def _table_sum(quality: int) -> int:
    """Sum of the table that libjpeg uses at a quality (jcparam.c: jpeg_quality_scaling)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return int(np.clip((_LUMINANCE * scale + 50) // 100, 1, 255).sum())


TABLE_SUMS = np.array([_table_sum(quality) for quality in range(1, 101)])


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """The facts that decide how a JPEG is decoded and whether it may stay as it is."""

    width: int
    """As its pixels lie in the file [px]."""
    height: int
    colorspace: str
    """As libjpeg names it: ``YCbCr``, ``RGB``, ``Gray``, ``CMYK``, ``YCCK``."""
    subsampling: str
    baseline: bool
    """Sequential, Huffman, 8 bit."""
    adobe: bool
    """Has Adobe's APP14 segment."""
    orientation: int
    """EXIF, 1 to 8."""
    quality: int | None
    """As libjpeg counts it, estimated; None where the tables are not found."""

    @property
    def passable(self) -> bool:
        """Whether every back end decodes such a file, at full speed and upright."""
        return (
            self.baseline
            and self.colorspace == "YCbCr"
            and self.subsampling in PASSABLE_SUBSAMPLING
            and self.orientation == 1
        )


def read_jpeg_header(data: bytes, max_pixels: int) -> JpegHeader:
    """Read the segments before the first scan.

    Raises:
        RejectedImage: It promises more than ``max_pixels``, or libjpeg cannot read it.
    """
    width, height, baseline, adobe, orientation = 0, 0, False, False, 1
    quality: int | None = None
    at = 2
    last = len(data) - 4
    while at <= last:
        prefix, marker, length = _segment_start(data, at)
        if prefix != 0xFF:
            break
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # these have no content
            at += 2
            continue
        if marker == 0xDA:  # start of scan: pixels follow
            break
        segment = data[at + 4 : at + 2 + length]
        if marker in FRAMES and len(segment) >= 5:
            bits, height, width = _frame_start(segment)
            baseline = marker in (0xC0, 0xC1) and bits == 8
        elif marker == 0xDB and quality is None:  # the first table is that of luminance
            quality = _estimate_quality(segment)
        elif marker == 0xEE and segment.startswith(b"Adobe"):
            adobe = True
        elif marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            orientation = _exif_orientation(segment)
        at += 2 + length
    if not width or not height:
        raise RejectedImage("damaged JPEG header")
    if width * height > max_pixels:  # libjpeg would not look at a header without a scan
        raise too_large(max_pixels)
    try:
        height, width, colorspace, subsampling = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise damaged_jpeg(error) from None
    return JpegHeader(width, height, colorspace, subsampling, baseline, adobe, orientation, quality)


@lru_cache  # a camera or a site uses few tables
def _estimate_quality(segment: bytes) -> int | None:
    """The libjpeg quality whose table comes nearest: the sum of its entries tells it."""
    wide = segment[:1] > b"\x0f"  # 16-bit entries
    table = np.frombuffer(segment[1 : 129 if wide else 65], ">u2" if wide else np.uint8)
    if len(table) < 64:
        return None
    return 1 + int(np.abs(TABLE_SUMS - table.sum()).argmin())


def _exif_orientation(segment: bytes) -> int:
    """EXIF tag 0x0112, 1 to 8; 1 where it is absent or nonsense."""
    exif = Image.Exif()
    try:
        exif.load(segment)
        value = exif.get(0x0112, 1)
    except Exception:  # Pillow's parser raises whatever it meets, struct.error included
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
