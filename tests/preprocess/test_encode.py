"""What packing encodes: as good as another encoder's, with an entry at every row of blocks."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image

from preprocess.encode import encode_jpeg
from preprocess.jpeg_header import read_jpeg_header
from preprocess.rejected import RejectedImage

Photo = Callable[[np.random.Generator, int, int], npt.NDArray[np.uint8]]
BLOCK_ROWS = {"420": 16, "422": 8, "444": 8}


def squared_error(payload: bytes, pixels: npt.NDArray[np.uint8]) -> float:
    """Mean, after decoding."""
    return float(np.square(simplejpeg.decode_jpeg(payload).astype(float) - pixels).mean())


@pytest.mark.parametrize("subsampling", BLOCK_ROWS)
@pytest.mark.parametrize("quality", [50, 90])
def test_it_is_as_near_to_the_pixels_as_simplejpegs_and_hardly_larger(
    photo: Photo, rng: np.random.Generator, subsampling: Any, quality: int
) -> None:
    pixels = photo(rng, 203, 150)
    ours = encode_jpeg(pixels, quality, subsampling)
    theirs = simplejpeg.encode_jpeg(pixels, quality, colorsubsampling=subsampling)
    assert squared_error(ours, pixels) <= 1.05 * squared_error(theirs, pixels)
    assert len(ours) <= 1.05 * len(theirs)


@pytest.mark.parametrize("subsampling", BLOCK_ROWS)
def test_a_restart_marker_follows_every_row_of_blocks(
    photo: Photo, rng: np.random.Generator, subsampling: Any
) -> None:
    payload = encode_jpeg(photo(rng, 203, 150), 90, subsampling)
    markers = re.findall(rb"\xff[\xd0-\xd7]", payload[payload.index(b"\xff\xda") :])
    assert len(markers) == -(-150 // BLOCK_ROWS[subsampling]) - 1


@pytest.mark.parametrize("subsampling", BLOCK_ROWS)
def test_every_decoder_sees_the_same_pixels_and_it_would_pass_through(
    photo: Photo, rng: np.random.Generator, subsampling: Any
) -> None:
    payload = encode_jpeg(photo(rng, 203, 150), 90, subsampling)
    pixels = simplejpeg.decode_jpeg(payload)
    by_cv2 = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(by_cv2, pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(payload))), pixels)
    header = read_jpeg_header(payload, 10**6)
    assert header.passable
    assert header.quality == 90


def test_what_is_too_long_for_a_jpeg_is_rejected() -> None:
    with pytest.raises(RejectedImage, match="70000 x 1 pixels do not fit in a JPEG"):
        encode_jpeg(np.zeros((1, 70_000, 3), np.uint8), 90, "420")
