"""What OpenCV does to the pixels of an image, between decoding and the batch."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from loaders.buffers import Pixels, Scratch
from loaders.config import Resample

Matrix = npt.NDArray[np.float32]


def prefer_ipp_resize() -> None:
    """Let this thread's linear resize be Intel's where OpenCV has it.

    OpenCV calls it inexact because it differs from its own fixed-point kernel, by at most 1. It is
    the nearer one to the exact value (at most 0.52 off, OpenCV's own 0.81), and takes 0.8 of the time
    for three bytes a pixel and 0.6 for four (measured, crops of random size to 224 and 384 px).
    """
    cv2.ipp.setUseIPP_NotExact(True)


def apply(
    region: Pixels,
    *,
    size: list[int],
    window: list[int],
    matrix: Matrix | None,
    flip: bool,
    resample: Resample,
    out: Pixels,
    scratch: Scratch,
) -> None:
    """Resize a region, keep a window of it, colour and mirror it, into ``out``.

    Args:
        region: ``(H, W, 3)`` RGB, or ``(H, W, 4)`` of which the last is left out.
        size: Height and width to resize it to.
        window: Top and left of the part that is kept, which is as large as ``out``.
        matrix: ``(3, 4)`` affine colour map, None for no change.
        flip: Whether to mirror left and right.
        resample: Interpolation.
        out: ``(S, S, 3)`` RGB, written.
        scratch: Where the steps before the last leave their result.
    """
    side = out.shape[0]
    scratch.fit(side)
    padded = region.shape[2] == 4
    three_bytes = out if matrix is None and not flip else scratch.resized
    if size[0] == side == size[1]:
        room = scratch.resized_padded if padded else three_bytes
        image = resize(region, size, resample, room)
    else:
        top, left = window
        image = resize(region, size, resample)[top : top + side, left : left + side]
    if padded:
        # Intel's resize of four bytes and this together take less than its resize of three.
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGBA2RGB, dst=three_bytes), np.uint8)
    if flip:
        # Never straight into the batch: it writes from both ends of a row, and to memory that is
        # not in the cache that takes five times as long as to memory that is (measured).
        image = np.asarray(cv2.flip(image, 1, dst=scratch.mirrored))
    if matrix is not None:
        cv2.transform(image, matrix, dst=out)
    elif image is not out:
        np.copyto(out, image)


def resize(
    region: Pixels, size: list[int], resample: Resample, room: Pixels | None = None
) -> Pixels:
    """``(size[0], size[1], 3 or 4)``: in ``room`` where that is given and the kernel can write to it."""
    height, width = size
    if region.shape[0] == height and region.shape[1] == width:
        return region
    if resample == "linear":
        return np.asarray(cv2.resize(region, (width, height), dst=room))
    # torch's uint8 kernel equals Pillow to 0.002 of 255 on average, and runs single-threaded.
    writable = region if region.flags.writeable else region.copy()  # torch insists
    nchw = torch.from_numpy(writable).permute(2, 0, 1).unsqueeze(0)
    resized = interpolate(nchw, size, mode="bilinear", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).numpy()
