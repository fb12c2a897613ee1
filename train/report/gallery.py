"""The most confident mistakes, with what the model saw."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from loaders.decode import decode
from shards.reader import ShardSet, Split
from train.scores.outputs import Outputs

SHOWN = 24
SIDE = 200
"""Longer side of a thumbnail [px]."""
QUALITY = 75


@dataclass(frozen=True, slots=True)
class Mistake:
    """An image that was taken for something else."""

    true: str
    predicted: str
    probability: float
    """Of what was predicted, calibrated."""
    source: str
    """The photograph's path in the data set."""
    thumbnail: str
    """A ``data:`` URL."""


def worst_mistakes(
    outputs: Outputs, temperature: float, names: tuple[str, ...], shards: Path, split: str
) -> list[Mistake]:
    """The mistakes of which the model was surest.

    Raises:
        ShardError: A sample is damaged.
    """
    confidence, predictions = outputs.probabilities(temperature).max(1)
    wrong = (predictions != outputs.labels).nonzero()[:, 0]
    chosen = wrong[confidence[wrong].argsort(descending=True, stable=True)][:SHOWN]
    with ShardSet(shards).split(split) as opened:
        return [
            Mistake(
                true=names[int(outputs.labels[at])],
                predicted=names[int(predictions[at])],
                probability=float(confidence[at]),
                source=str(opened.metadata(int(outputs.ids[at]))["path"]),
                thumbnail=thumbnail(opened, int(outputs.ids[at])),
            )
            for at in chosen.tolist()
        ]


def thumbnail(split: Split, sample: int) -> str:
    """A small JPEG of a sample as a ``data:`` URL."""
    return jpeg_url(decode(split, sample))


def jpeg_url(pixels: npt.NDArray[np.uint8]) -> str:
    """A small JPEG of ``(H, W, 3)`` RGB as a ``data:`` URL."""
    scale = min(1.0, SIDE / max(pixels.shape[:2]))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    small = np.ascontiguousarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    data = simplejpeg.encode_jpeg(small, quality=QUALITY, colorspace="RGB")
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
