"""RGB pixels -> the bytes of a baseline JPEG, with a restart marker after every row of blocks.

A restart marker is where the entropy-coded data can be entered (ITU-T T.81, F.1.1.5.2), so whoever
needs some rows of an image can leave out those above them too: ``loaders.decode`` does. They cost
0.1 % more bytes (measured, 300 photographs at short side 256); any JPEG decoder reads them.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from preprocess.rejected import RejectedImage

Subsampling = Literal["420", "422", "444"]

FACTORS = {
    "420": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, 16),
    "422": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422, 16),
    "444": (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, 8),
}
"""OpenCV's name, and the width of a block of all three channels [px]."""
ENCODER = "opencv with restart markers"
"""Beside the versions of the codecs in a set's fingerprint: other words, other bytes."""


def encode_jpeg(rgb: npt.NDArray[np.uint8], quality: int, subsampling: Subsampling) -> bytes:
    """``(H, W, 3)`` RGB as a JPEG of that quality, 1 to 100.

    Raises:
        RejectedImage: A side is longer than a JPEG can have, 65,500 pixels.
    """
    factors, block = FACTORS[subsampling]
    options = [
        *(cv2.IMWRITE_JPEG_QUALITY, quality),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors),
        *(cv2.IMWRITE_JPEG_RST_INTERVAL, -(-rgb.shape[1] // block)),
    ]
    encoded = None
    try:
        done, encoded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    except cv2.error:
        done = False
    if not done or encoded is None:
        raise RejectedImage(f"{rgb.shape[1]} x {rgb.shape[0]} pixels do not fit in a JPEG")
    return encoded.tobytes()
