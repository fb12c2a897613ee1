"""Pictures: what is drawn where."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from train.runs.figures import (
    CAPTION_PX,
    CONFUSION_PX,
    READABLE_PX,
    TILE_PX,
    confusion_picture,
    encode_png,
    image_grid,
)


def flat_images(*levels: int, side: int = 20) -> torch.Tensor:
    """(N, 3, side, side) uint8 in channels_last memory, red alone: each of one level."""
    images = torch.zeros((len(levels), 3, side, side), dtype=torch.uint8)
    for image, level in zip(images, levels, strict=True):
        image[0] = level
    return images.contiguous(memory_format=torch.channels_last)


def test_a_grid_shows_the_images_in_reading_order_and_fills_the_last_row_with_white() -> None:
    grid = image_grid(flat_images(10, 20, 30, 40, 50), ["a"] * 5)
    height = 20 + CAPTION_PX
    assert grid.shape == (2 * height, 60, 3)
    tops = [[tuple(grid[row * height + 5, column * 20 + 5]) for column in range(3)]
            for row in range(2)]  # fmt: skip
    assert tops == [[(10, 0, 0), (20, 0, 0), (30, 0, 0)], [(40, 0, 0), (50, 0, 0), (255,) * 3]]


def test_a_caption_is_dark_on_white_below_its_image() -> None:
    strip = image_grid(flat_images(10, side=60), ["Boletus"])[60:]
    assert strip.max() == 255
    assert (strip < 100).any()
    assert (image_grid(flat_images(10, side=60), [""])[60:] == 255).all()


def test_large_images_are_drawn_smaller() -> None:
    grid = image_grid(flat_images(10, side=3 * TILE_PX), [""])
    assert grid.shape == (TILE_PX + CAPTION_PX, TILE_PX, 3)


def test_a_confusion_matrix_is_bright_where_all_of_a_class_went() -> None:
    picture = confusion_picture(torch.tensor([[8, 0], [3, 1]]), ["a", "b"])
    cell = 64
    assert picture.shape[0] == 2 * cell
    left = picture.shape[1] - 2 * cell  # of the matrix; the names stand before it
    light = [
        [int(picture[row * cell + 9, left + column * cell + 9].sum()) for column in range(2)]
        for row in range(2)
    ]
    assert light[0][0] > light[1][0] > light[1][1] > light[0][1]


def test_a_class_without_images_is_dark() -> None:
    picture = confusion_picture(torch.tensor([[4, 0], [0, 0]]), ["a", "b"])
    rows = picture[:, -128:]
    assert len(np.unique(rows[64:].reshape(-1, 3), axis=0)) == 1
    assert rows[64:].sum() < rows[:64].sum()


@pytest.mark.parametrize("classes", [2, 17, 169])
def test_names_stand_beside_the_rows_where_they_can_be_read(classes: int) -> None:
    picture = confusion_picture(torch.eye(classes), ["Amanita muscaria"] * classes)
    height, width = picture.shape[:2]
    assert height <= CONFUSION_PX
    assert (width > height) == (height // classes >= READABLE_PX)


def test_a_picture_file_gives_the_picture_back() -> None:
    picture = image_grid(flat_images(10, 200), ["a", "b"])
    read = cv2.imdecode(np.frombuffer(encode_png(picture), np.uint8), cv2.IMREAD_COLOR)
    assert read is not None
    assert np.array_equal(cv2.cvtColor(read, cv2.COLOR_BGR2RGB), picture)
