"""Pictures of a run, drawn with OpenCV: RGB images as ``(H, W, 3)`` uint8 arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

Picture = npt.NDArray[np.uint8]

TILE_PX = 256
"""Longest side of a photograph in a grid; smaller ones stay as they are."""
CAPTION_PX = 20
CONFUSION_PX = 1000
"""About the side of the drawn matrix."""
READABLE_PX = 14
"""Height that a line of text needs: matrices of smaller cells have no class names."""
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def image_grid(images: torch.Tensor, captions: Sequence[str]) -> Picture:
    """Images in rows, about as many of them as of columns, a line of text below each.

    Args:
        images: ``(N, 3, H, W)`` uint8 RGB, on any device.
        captions: N of them; what is too long for its image is cut off.
    """
    tiles = [_captioned(each, text) for each, text in zip(_pixels(images), captions, strict=True)]
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (rows * columns - len(tiles))
    return np.vstack(
        [np.hstack(tiles[first : first + columns]) for first in range(0, len(tiles), columns)]
    )


def confusion_picture(confusion: torch.Tensor, class_names: Sequence[str]) -> Picture:
    """A confusion matrix, each row divided by its sum: dark is 0, bright is every image of the class.

    Args:
        confusion: ``(K, K)`` counts, rows true, columns predicted.
        class_names: K of them; written beside the rows where the cells are tall enough, and in the
            same order from left to right.
    """
    counts = confusion.double().cpu().numpy()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell = max(1, min(64, CONFUSION_PX // len(counts)))
    levels = np.repeat(np.repeat(np.rint(shares * 255).astype(np.uint8), cell, 0), cell, 1)
    matrix = _rgb(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS))
    if cell < READABLE_PX:
        return matrix
    margin = max(_text_width(name) for name in class_names) + 10
    names = np.full((len(matrix), margin, 3), 255, np.uint8)
    for row, name in enumerate(class_names):
        _write(names, name, 5, row * cell + cell // 2 + 4)
    return np.hstack([names, matrix])


def encode_png(picture: Picture) -> bytes:
    """The file of a picture."""
    return cv2.imencode(".png", _rgb(picture))[1].tobytes()


def _pixels(images: torch.Tensor) -> list[Picture]:
    array = images.permute(0, 2, 3, 1).cpu().numpy()
    height, width = array.shape[1:3]
    scale = min(1.0, TILE_PX / max(height, width))
    size = (round(width * scale), round(height * scale))
    return [_as_picture(cv2.resize(each, size, interpolation=cv2.INTER_AREA)) for each in array]


def _captioned(image: Picture, caption: str) -> Picture:
    strip = np.full((CAPTION_PX, image.shape[1], 3), 255, np.uint8)
    _write(strip, caption, 2, CAPTION_PX - 6)
    return np.vstack([image, strip])


def _write(picture: Picture, text: str, x: int, baseline: int) -> None:
    cv2.putText(picture, text, (x, baseline), **_FONT, color=BLACK)


def _text_width(text: str) -> int:
    return int(cv2.getTextSize(text, **_FONT)[0][0])


_FONT: dict[str, Any] = {
    "fontFace": cv2.FONT_HERSHEY_SIMPLEX,
    "fontScale": 0.4,
    "thickness": 1,
}


def _rgb(bgr: Any) -> Picture:
    """BGR to RGB, or the other way."""
    return _as_picture(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def _as_picture(array: Any) -> Picture:
    return np.asarray(array, np.uint8)
