"""Photographs as they lie on a disk -> batches that look as in an evaluation.

Each is decoded strictly and stored as packing would, then loaded as the loaders do: a model sees the
same pixels as when it was evaluated on a shard set that was packed with the same options.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import torch

from loaders.augment import evaluation_transforms
from loaders.buffers import Pixels, Scratch
from loaders.opencv import instructions
from loaders.pixels import apply
from loaders.threads import Call, Threads
from preprocess.catalog import Origin
from preprocess.folder_layout import EXTENSIONS
from preprocess.image import ImageOptions, store_image
from preprocess.rejected import RejectedImage
from shards.reader import is_array, view_array

AHEAD = 3
"""Batches whose photographs are being decoded while the model works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """From a photograph to what the model sees."""

    packing: ImageOptions
    """How it would be stored in a shard set."""
    resize_size: int
    """The shorter side before the central crop [px]."""
    image_size: int
    """Side of that crop [px]."""

    def load(self, path: Path) -> Pixels:
        """``(image_size, image_size, 3)`` RGB.

        Raises:
            RejectedImage: It cannot be read, or packing would reject it; the message is the reason.
        """
        try:
            data = Origin(path).read()
        except OSError as error:
            raise RejectedImage(error.strerror or str(error)) from None
        except ValueError as error:  # a name with a null byte
            raise RejectedImage(str(error)) from None
        stored = store_image(data, self.packing, self.packing.store_of(str(path)), statistics=False)
        payload = memoryview(stored.payload)
        pixels = view_array(payload) if is_array(payload) else simplejpeg.decode_jpeg(payload)
        return self._central(np.asarray(pixels))

    def _central(self, pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        transforms = evaluation_transforms(
            np.array([width]), np.array([height]), self.image_size, self.resize_size
        )
        _, size, window, flip, matrix, _ = instructions(transforms)[0]
        out = np.empty((self.image_size, self.image_size, 3), np.uint8)
        apply(
            pixels,
            size=size,
            window=window,
            matrix=matrix,
            flip=flip,
            resample="antialias",
            out=out,
            scratch=Scratch(1, 1, self.image_size),
        )
        return out


@dataclass(frozen=True, slots=True)
class PhotoBatch:
    """What could be read of some photographs."""

    paths: tuple[Path, ...]
    """Those that could be."""
    images: torch.Tensor
    """``(len(paths), 3, S, S)`` uint8 RGB in channels_last memory, on the CPU."""
    bad: tuple[tuple[Path, str], ...]
    """Those that could not, and why."""


def find_photos(given: Iterable[Path]) -> Iterator[Path]:
    """The files that were named, and every photograph (by its extension) below the folders.

    Folders are searched in alphabetical order; hidden files and folders are left out.
    """
    for path in given:
        if not path.is_dir():
            yield path
            continue
        try:
            inside = sorted(path.iterdir())
        except OSError:  # it is reported with the photographs that cannot be read
            yield path
            continue
        for each in inside:
            if each.name.startswith("."):
                continue
            if each.is_dir() and not each.is_symlink():
                yield from find_photos([each])
            elif each.name.lower().endswith(EXTENSIONS):
                yield each


def counted(photographs: int) -> str:
    """``1 photograph``, ``5 photographs``."""
    return f"{photographs:,} photograph{'s' * (photographs != 1)}"


def photo_batches(
    paths: Iterable[Path], how: Preprocessing, batch_size: int, threads: int
) -> Generator[PhotoBatch]:
    """Batches in the order of the paths, decoded by threads ahead of their use."""
    cv2.setNumThreads(1)  # the threads here are the parallelism
    remaining = iter(paths)
    ahead: deque[tuple[list[Path], list[Call[Pixels]]]] = deque()
    with closing(Threads(threads, "hyphae-decode")) as pool:
        while True:
            while len(ahead) < AHEAD and (chosen := list(islice(remaining, batch_size))):
                ahead.append((chosen, [pool.submit(how.load, path) for path in chosen]))
            if not ahead:
                return
            yield _finish(*ahead.popleft(), how.image_size)


def _finish(paths: Sequence[Path], loading: Sequence[Call[Pixels]], side: int) -> PhotoBatch:
    good: list[tuple[Path, Pixels]] = []
    bad: list[tuple[Path, str]] = []
    for path, call in zip(paths, loading, strict=True):
        try:
            good.append((path, call.result()))
        except RejectedImage as error:
            bad.append((path, str(error)))
    images = np.empty((len(good), side, side, 3), np.uint8)
    for at, (_, pixels) in enumerate(good):
        images[at] = pixels
    return PhotoBatch(
        paths=tuple(path for path, _ in good),
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        bad=tuple(bad),
    )
