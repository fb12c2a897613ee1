"""One photograph's bytes in, the bytes to store out, or the reason why not. A pure function.

Every decoder used here ships inside its wheel (simplejpeg, OpenCV), so what is accepted does not
depend on which Pillow is installed; Pillow, or Pillow-SIMD where there is one, only resizes.
"""

from __future__ import annotations

import io
import threading
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import imagesize
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from preprocess.encode import Subsampling, encode_jpeg
from preprocess.jpeg_header import JpegHeader, read_jpeg_header
from preprocess.rejected import RejectedImage, damaged_jpeg, too_large
from shards.writer import npy_bytes

Store = Literal["jpeg", "raw"]
How = Literal["passed_through", "resized", "converted"]
Pixels = npt.NDArray[np.uint8]
Moment = tuple[float, float, float]

# A file that does not decode gets a reason of ours; OpenCV would print one too.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_scratch = threading.local()

STATISTICS_ROWS = 64
"""Statistics look at evenly spaced rows of a higher image, this many or more: neighbours are alike."""

JPEG_START = b"\xff\xd8\xff"
SMALLEST = {"min_height": 1, "min_width": 1}
REDUCING_GAP = 2  # decode at no less than twice the target: what Pillow's thumbnail() uses


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How photographs are stored."""

    raw_share: float = 0.0
    """Share of images stored as uint8 arrays instead of JPEGs, in [0, 1]: no decoding later."""
    short_side: int = 440
    """Images are scaled down to this shorter side [px], never up."""
    max_side: int | None = None
    """And to this longer side [px]."""
    quality: int = 90
    """JPEG quality of what is encoded anew, 1 to 100."""
    subsampling: Subsampling = "420"
    """Of the colour channels of what is encoded anew."""
    max_pixels: int = 178_956_970
    """Larger images are refused before they are decoded; Pillow's own limit for a bomb."""

    def __post_init__(self) -> None:
        if self.short_side < 16:
            raise ValueError(f"short side must be at least 16 px, got {self.short_side}")
        if self.max_side is not None and self.max_side < 16:
            raise ValueError(f"longer side must be at least 16 px, got {self.max_side}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"JPEG quality must be 1 to 100, got {self.quality}")
        if not 0 <= self.raw_share <= 1:
            raise ValueError(f"the share of raw images must be in [0, 1], got {self.raw_share}")

    def scale(self, width: int, height: int) -> float:
        """By how much an image is scaled down, at most 1."""
        scale = min(1.0, self.short_side / min(width, height))
        return scale if self.max_side is None else min(scale, self.max_side / max(width, height))

    def store_of(self, path: str) -> Store:
        """In which form a photograph is stored: decided by its name alone, so always the same."""
        if self.raw_share in (0, 1):
            return "raw" if self.raw_share else "jpeg"
        share = zlib.crc32(path.encode(errors="surrogateescape")) / 2**32
        return "raw" if share < self.raw_share else "jpeg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """What the photograph was before."""

    width: int
    """Upright [px]."""
    height: int
    jpeg_quality: int | None
    """Estimated from its quantisation table; None where it is no JPEG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """What goes into the shard, upright, and what its pixels look like."""

    payload: bytes
    """A baseline YCbCr JPEG, or an ``.npy`` file of ``(H, W, 3)`` uint8 RGB."""
    extension: Literal["jpg", "npy"]
    width: int
    height: int
    how: How
    original: Original
    mean: Moment | None
    """Of each RGB channel, in [0, 1]; None where nobody asked."""
    mean_square: Moment | None


def store_image(
    data: bytes, options: ImageOptions, store: Store = "jpeg", *, statistics: bool = True
) -> StoredImage:
    """Decode strictly, and pass through, resize or convert.

    A baseline YCbCr JPEG that is small enough and upright passes through byte for byte; everything
    else (larger, rotated by EXIF, grey, CMYK, progressive, PNG, ...) is encoded anew.

    Args:
        data: The file's content.
        options: Size and quality.
        store: As a JPEG, or as an array.
        statistics: Look at the pixels: needs more than the proof that they decode.

    Raises:
        RejectedImage: It is no image, too large, or does not decode without a complaint.
    """
    if not data:
        raise RejectedImage("empty file")
    quality = None
    if data.startswith(JPEG_START):
        header = read_jpeg_header(data, options.max_pixels)
        width, height, quality = header.width, header.height, header.quality
        if header.passable and options.scale(width, height) == 1.0 and store == "jpeg":
            return _passed_through(data, header, statistics)
        rgb = _decode_jpeg(data, header, min_short_side=REDUCING_GAP * options.short_side)
        rgb = _upright(rgb, header.orientation)
    else:
        width, height = imagesize.get(io.BytesIO(data))
        if width <= 0 or height <= 0:
            raise RejectedImage("not an image")
        if width * height > options.max_pixels:
            raise too_large(options.max_pixels)
        rgb = _decode_other(data)  # OpenCV applies EXIF here itself
    # A header says how the pixels lie in the file; imagesize 2 heeds EXIF, 1 does not.
    if (rgb.shape[1] > rgb.shape[0]) != (width > height):
        width, height = height, width
    original = Original(width=width, height=height, jpeg_quality=quality)
    scale = options.scale(rgb.shape[1], rgb.shape[0])
    how: How = "converted"
    if scale < 1.0:
        rgb, how = _resize(rgb, scale), "resized"
    rgb = np.ascontiguousarray(rgb)
    if store == "raw":
        return _stored(rgb, npy_bytes(rgb), "npy", how, original, statistics)
    payload = encode_jpeg(rgb, options.quality, options.subsampling)
    return _stored(rgb, payload, "jpg", how, original, statistics)


def _passed_through(data: bytes, header: JpegHeader, statistics: bool) -> StoredImage:
    """A file that stays as it is, once it has proved to decode.

    Whatever the size and the upsampling of what comes out, libjpeg reads every coefficient and
    complains alike; so the proof takes the cheapest form, and statistics the second cheapest.
    """
    rgb = _decode_strictly(data, fastupsample=True, **({} if statistics else SMALLEST))
    mean, mean_square = _moments(rgb) if statistics else (None, None)
    width, height = header.width, header.height
    return StoredImage(
        payload=data,
        extension="jpg",
        width=width,
        height=height,
        how="passed_through",
        original=Original(width=width, height=height, jpeg_quality=header.quality),
        mean=mean,
        mean_square=mean_square,
    )


def _decode_strictly(data: bytes, **how: Any) -> Pixels:
    """What simplejpeg decodes, refusing what libjpeg would patch up."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, **how)
    except ValueError as error:
        raise damaged_jpeg(error) from None
    return pixels


def _decode_jpeg(data: bytes, header: JpegHeader, min_short_side: int) -> Pixels:
    """``(H, W, 3)`` RGB; much larger files come scaled."""
    space = "CMYK" if header.colorspace in ("CMYK", "YCCK") else "RGB"
    pixels = _decode_strictly(
        data, colorspace=space, min_height=min_short_side, min_width=min_short_side
    )
    if space == "RGB":
        return pixels
    inks = pixels if header.adobe else 255 - pixels  # Adobe stores inks inverted
    return np.asarray(
        (inks[..., :3].astype(np.uint16) * inks[..., 3:] + 127) // 255, dtype=np.uint8
    )


def _decode_other(data: bytes) -> Pixels:
    """``(H, W, 3)`` RGB of a PNG, GIF (first frame), WebP, BMP or TIFF; alpha is dropped."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise RejectedImage("damaged or unsupported image")
    return np.asarray(pixels, np.uint8)


def _upright(rgb: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (TIFF 6.0, tag 274): turn, then mirror."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return rgb


def _resize(rgb: Pixels, scale: float) -> Pixels:
    """Scale down by a factor below 1, antialiased; no side becomes shorter than 1 pixel."""
    height, width = rgb.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(np.ascontiguousarray(rgb))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def _stored(
    rgb: Pixels,
    payload: bytes,
    extension: Literal["jpg", "npy"],
    how: How,
    original: Original,
    statistics: bool,
) -> StoredImage:
    mean, mean_square = _moments(rgb) if statistics else (None, None)
    return StoredImage(
        payload=payload,
        extension=extension,
        width=rgb.shape[1],
        height=rgb.shape[0],
        how=how,
        original=original,
        mean=mean,
        mean_square=mean_square,
    )


def _moments(rgb: Pixels) -> tuple[Moment, Moment]:
    """Mean and mean square of each channel, in [0, 1], over :data:`STATISTICS_ROWS` or more rows.

    Of separate planes, kept from image to image: twice as fast as ``cv2.meanStdDev``.
    """
    step = max(1, len(rgb) // STATISTICS_ROWS)
    rows = rgb[(len(rgb) - 1) % step // 2 :: step]  # as far from the one edge as from the other
    height, width = rows.shape[:2]
    if height * width > getattr(_scratch, "pixels", 0):
        _scratch.pixels = height * width
        _scratch.planes = np.empty((3, height * width), np.uint8)
    planes = [plane[: height * width].reshape(height, width) for plane in _scratch.planes]
    cv2.split(rows, planes)
    whole = height * width * 255
    sums = [cv2.norm(plane, cv2.NORM_L1) / whole for plane in planes]
    squares = [cv2.norm(plane, cv2.NORM_L2SQR) / (whole * 255) for plane in planes]
    return (sums[0], sums[1], sums[2]), (squares[0], squares[1], squares[2])
