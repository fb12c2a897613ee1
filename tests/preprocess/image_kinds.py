"""Photographs of every kind as bytes, and the pixels they mean."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from preprocess.encode import encode_jpeg
from preprocess.image import ImageOptions, StoredImage

Pixels = npt.NDArray[np.uint8]
Photo = Callable[[np.random.Generator, int, int], Pixels]

WIDTH, HEIGHT = 160, 120
OPTIONS = ImageOptions(short_side=440)
SMALLER = ImageOptions(short_side=48)
LOSSY = 4.0
"""Mean difference of 255 allowed where the file itself is a JPEG of quality 92; up to 3.1 occurs.

A wrong turn, mirror image, colour order or inversion gives more than 20.
"""


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(payload: bytes) -> npt.NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(payload)).convert("RGB"), np.int16)


def mean_difference(stored: StoredImage, expected: npt.NDArray[Any]) -> float:
    """Of 255, from what the expected pixels become as a stored JPEG."""
    pixels = np.ascontiguousarray(expected, np.uint8)
    ideal = decode(encode_jpeg(pixels, 90, "420"))
    assert (stored.height, stored.width) == ideal.shape[:2]
    return float(np.abs(decode(stored.payload) - ideal).mean())


def write_cv2(extension: str, pixels: npt.NDArray[Any]) -> bytes:
    """Encode BGR or grey pixels with OpenCV, whose codecs are in its wheel."""
    ok, data = cv2.imencode(extension, pixels)
    assert ok
    return bytes(data)


def without_adobe(data: bytes) -> bytes:
    """Drop the APP14 segment."""
    at = data.index(b"\xff\xee\x00\x0eAdobe")
    return data[:at] + data[at + 16 :]


def grey(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels).convert("L")


def as_rgb(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def inks(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels).convert("CMYK")


def palette(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE)


def with_alpha(pixels: Pixels) -> Image.Image:
    alpha = np.linspace(0, 255, pixels.shape[1]).astype(np.uint8)
    return Image.fromarray(np.dstack([pixels, np.broadcast_to(alpha, pixels.shape[:2])]))


# Kind -> the file's bytes and the pixels it means; all but the first two are encoded anew.
KINDS: dict[str, Callable[[Pixels], tuple[bytes, Pixels]]] = {
    "baseline jpeg 420": lambda p: (save(Image.fromarray(p), "JPEG", quality=92), p),
    "baseline jpeg 444": lambda p: (save(Image.fromarray(p), "JPEG", quality=92, subsampling=0), p),
    "grey jpeg": lambda p: (save(grey(p), "JPEG", quality=92), as_rgb(grey(p))),
    "cmyk jpeg": lambda p: (save(inks(p), "JPEG", quality=92), as_rgb(inks(p))),
    "cmyk jpeg without adobe segment": lambda p: (
        without_adobe(save(Image.fromarray(255 - np.asarray(inks(p)), "CMYK"), "JPEG", quality=92)),
        as_rgb(inks(p)),
    ),
    "ycck jpeg": lambda p: (
        simplejpeg.encode_jpeg(255 - np.asarray(inks(p)), 92, "CMYK"),
        as_rgb(inks(p)),
    ),
    "rgb jpeg": lambda p: (rgb_jpeg(p), p),
    "progressive jpeg": lambda p: (
        save(Image.fromarray(p), "JPEG", quality=92, progressive=True),
        p,
    ),
    "png": lambda p: (save(Image.fromarray(p), "PNG"), p),
    "grey png": lambda p: (save(grey(p), "PNG"), as_rgb(grey(p))),
    "palette png": lambda p: (save(palette(p), "PNG"), as_rgb(palette(p))),
    "png with alpha": lambda p: (save(with_alpha(p), "PNG"), p),
    "grey png with alpha": lambda p: (save(with_alpha(p).convert("LA"), "PNG"), as_rgb(grey(p))),
    "1-bit png": lambda p: (
        save(Image.fromarray(p[..., 0] > 100), "PNG"),
        np.repeat((p[..., :1] > 100) * np.uint8(255), 3, axis=2),
    ),
    "16-bit png": lambda p: (write_cv2(".png", p[..., ::-1].astype(np.uint16) * 257), p),
    "16-bit grey png": lambda p: (
        write_cv2(".png", p[..., 0].astype(np.uint16) * 257),
        np.repeat(p[..., :1], 3, axis=2),
    ),
    "interlaced png": lambda p: (interlaced_png(p), p),
    "gif": lambda p: (save(palette(p), "GIF"), as_rgb(palette(p))),
    "animated gif": lambda p: (
        save(palette(p), "GIF", save_all=True, append_images=[palette(255 - p)]),
        as_rgb(palette(p)),
    ),
    "bmp": lambda p: (save(Image.fromarray(p), "BMP"), p),
    "tiff": lambda p: (save(Image.fromarray(p), "TIFF"), p),
    "webp": lambda p: (
        bytes(cv2.imencode(".webp", p[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])[1]),
        p,
    ),
}
PASSED_THROUGH = ("baseline jpeg 420", "baseline jpeg 444")


def rgb_jpeg(pixels: Pixels) -> bytes:
    """A JPEG whose components are R, G and B themselves, as its Adobe segment says."""
    unconverted = Image.merge("YCbCr", Image.fromarray(pixels).split())
    data = save(unconverted, "JPEG", quality=92, subsampling=0)
    assert data[2:4] == b"\xff\xe0"  # JFIF, which would say YCbCr
    behind = 4 + int.from_bytes(data[4:6], "big")
    return data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\x00" + data[behind:]


def interlaced_png(pixels: Pixels) -> bytes:
    """Adam7 by hand: neither Pillow nor OpenCV writes it."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)]  # fmt: skip
    lines = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, right in passes
        for row in pixels[top::down, left::right]
    )
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return png_of([(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")])


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
