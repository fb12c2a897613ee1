"""Pairs of photographs side by side, with captions, as one JPEG to look through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from preprocess.copies import Copy, Photo
from preprocess.image import Pixels
from preprocess.photo_hash import COLOUR, decode_small
from shards.writer import write_file

TILE_PX = 240
CAPTION_PX = 44
LEGEND_PX = 60
GAP_PX = 10
PAIRS_A_ROW = 2
QUALITY = 85
PAPER, INK, WARNING = 255, (0, 0, 0), (0, 0, 200)
CAPTION_CHARS = 38

ReadPhoto = Callable[[Photo], bytes]


def draw_sheet(file: Path, copies: Sequence[Copy], read: ReadPhoto) -> None:
    """Draw pairs, two a row; a label or split in which they differ is red.

    Args:
        file: The JPEG to write.
        copies: What to show, at least one pair.
        read: Gives a photograph's bytes.
    """
    pairs = [_pair(copy, read) for copy in copies]
    pairs += [np.full_like(pairs[0], PAPER)] * (-len(pairs) % PAIRS_A_ROW)
    rows = [np.hstack(pairs[at : at + PAIRS_A_ROW]) for at in range(0, len(pairs), PAIRS_A_ROW)]
    sheet = np.vstack([_legend(rows[0].shape[1]), *rows])
    _, encoded = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    write_file(file, encoded.tobytes())


def _legend(width: int) -> Pixels:
    """What the captions say, once above all pairs."""
    strip = np.full((LEGEND_PX, width, 3), PAPER, np.uint8)
    _write(strip, "under each photograph: its split, its class, its file; in red where", 18, INK)
    _write(strip, "the two of a pair differ. exact: the same bytes; near, N of 64: their", 34, INK)
    _write(strip, "perceptual hashes differ in N of 64 bits, the fewer the more alike", 50, INK)
    return strip


def _pair(copy: Copy, read: ReadPhoto) -> Pixels:
    split, label = (
        WARNING if differs else INK for differs in (copy.across_splits, copy.across_labels)
    )
    how = "exact" if copy.kind == "exact" else f"near, {copy.distance} of 64"
    tiles = []
    for photo, note in ((copy.a, f"  {how}"), (copy.b, "")):
        caption = np.full((CAPTION_PX, TILE_PX, 3), PAPER, np.uint8)
        _write(caption, photo.split + note, 12, split)
        _write(caption, _shortened(photo.label), 26, label)
        _write(caption, _shortened(photo.path.rpartition("/")[2]), 40, INK)
        tiles.append(np.vstack([_tile(photo, read), caption]))
    pair = np.hstack(tiles)
    border = (GAP_PX, GAP_PX, GAP_PX, GAP_PX)
    return np.asarray(
        cv2.copyMakeBorder(pair, *border, cv2.BORDER_CONSTANT, value=(PAPER, PAPER, PAPER)),
        np.uint8,
    )


def _tile(photo: Photo, read: ReadPhoto) -> Pixels:
    tile = np.full((TILE_PX, TILE_PX, 3), PAPER, np.uint8)
    try:
        pixels = decode_small(read(photo), TILE_PX, COLOUR)
    except OSError:
        pixels = None
    if pixels is None:
        _write(tile, "not an image", TILE_PX // 2, WARNING)
        return tile
    height, width = pixels.shape[:2]
    scale = TILE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    tile[-size[1] :, : size[0]] = small  # on the caption
    return tile


def _shortened(text: str) -> str:
    if len(text) <= CAPTION_CHARS:
        return text
    return f"{text[: CAPTION_CHARS - 12]}..{text[-10:]}"


def _write(image: Pixels, text: str, baseline: int, colour: tuple[int, int, int]) -> None:
    # OpenCV's own font knows ASCII alone, and needs no font file.
    text = text.encode("ascii", "replace").decode()
    cv2.putText(image, text, (4, baseline), cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, 1, cv2.LINE_AA)
